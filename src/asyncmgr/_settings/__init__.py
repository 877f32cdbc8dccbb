"""The settings of a service: their model, the places they are read from, and the texts of what is wrong with them.

Read in this order. `model` has the settings themselves. `sources` reads arguments, variables and files, and merges
them. `kubernetes` recognises the variables of Kubernetes that look like settings. `matching` finds which tables belong
to the tasks and managers of this service. `problems` writes error texts, and keeps secrets out of them.

May import `_common`, `errors`, `wire`, `events` and `_tasks`.
"""
