"""Object detection: what its evaluation, its report and its exports have of their own."""
