"""What differs between kinds of problem: one folder or file a task."""
