"""MySQL and MariaDB: a consistent copy of tables, then every change from the binlog."""
