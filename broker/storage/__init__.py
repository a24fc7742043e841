"""What keeps the messages: `IStore` of the core, in memory and in SQLite."""
