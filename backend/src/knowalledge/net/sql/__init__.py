"""A relational database: an SQLite file or PostgreSQL. Imported only where one is used."""
