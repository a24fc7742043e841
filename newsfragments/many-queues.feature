Traffic over thousands of queues costs about half of what it did: SENDs for several queues that come in one packet are
put in together, and folds and the sweep leave alone what they have nothing to do with.
