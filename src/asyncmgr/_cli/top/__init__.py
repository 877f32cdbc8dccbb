"""``asyncmgr top``: the facts and the verbs of the page, in a terminal.

Read `app` first. `wires` asks services, `watching` keeps what they tell, `world` puts the tasks of several hosts
together, `words` and `sparks` write them; all of these know nothing of the screen. `rows`, `drawer` and `dialogs` are
what is on it. Sentences, states and marks come from the page: `asyncmgr._monitoring.page_data`.
"""
