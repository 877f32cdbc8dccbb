"""A short tutorial, one test after the other. Each file is a chapter and stands alone."""
