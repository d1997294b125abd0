"""What a person reads: console tables, CSV and JSON files, one HTML page, figures."""
