"""What became of every slot, and why.

`slots` has the values: fates and records. `ledger` keeps the fates in memory; `journal` keeps what people, clocks and
the machine did meanwhile. `sqlite` writes both to a file, and `past` reads that file. `facts` gathers what is known of
one slot, and `explain` says it in a sentence or two; neither reads a clock. `keeper` holds these parts for one service.
"""
