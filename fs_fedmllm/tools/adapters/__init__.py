"""What can be done with a finished adapter: compare two, merge one into its base, ask one a question."""
