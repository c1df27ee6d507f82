"""Reading and writing files that may be shared, private, hostile or cut short."""
