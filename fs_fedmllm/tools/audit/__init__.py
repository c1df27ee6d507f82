"""What attacks on a finished run find: evidence beside a promise, never in its place."""
