"""Stand-ins: servers that answer as Polygon does, and markets and tables that are made up."""
