"""Reading, checking, caching and showing data."""
