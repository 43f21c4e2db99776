"""Running cells: starts workers, never imports them."""
