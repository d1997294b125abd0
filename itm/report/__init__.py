"""Reports for people: console tables, CSV and JSON files, one HTML page, figures."""
