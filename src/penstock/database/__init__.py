"""PostgreSQL: the embedded server, migrations, connections, SQL files."""
