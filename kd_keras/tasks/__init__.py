"""What differs between tasks, and nothing else: evaluation, report sections and the head of an export."""
