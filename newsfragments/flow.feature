``broker flow run`` keeps the workers of a flow current: a version that is deployed, or a file that changes, is tested and replaces
them while they finish. ``broker flow deploy`` says which version is wanted, ``broker flow status`` how the flow stands.
