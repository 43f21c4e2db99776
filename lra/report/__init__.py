"""Reading results: tables, page and figures as a pure function of records."""
