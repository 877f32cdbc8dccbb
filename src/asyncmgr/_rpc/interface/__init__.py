"""The interface of a service as data, and how two versions of it differ."""
