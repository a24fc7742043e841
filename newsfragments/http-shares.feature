Several who wait for ``/lease`` share what comes, each in one go: ten that post, lease and settle batches get half as many again through.
