"""Periodic tasks: their declaration, their schedule, their runs and the reports about these.

Read them in this order. `declare` is the decorator and `options` the table that reads its arguments; `overrides` puts
settings over them. `schedules` is the grid of slots (`cron_text` reads expressions), `plan` the place of one task on
its grid, and `managed` joins a task's plan with the standing of its runs. `agenda` decides which tasks are due; all up
to here is pure. `runs` is one run and the judgement of its end. `lookout` waits until something is due, `intake` makes
runs of due slots, and `runner` runs them, each as an asyncio task; `passes` runs them without a service. `reporting`
logs and sends events, and `failures` recognises a failure that it has seen before. This package may import `_common`,
`errors`, `wire` and `events`.
"""
