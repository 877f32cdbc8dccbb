"""The store engine of ``postgresql://`` (extra ``asyncmgr[postgresql]``).

Read in this order: `sql` has the table and the statements, `options` reads the URL, `failures` turns the driver's
errors into ours. `link` keeps the connections, `follower` the listening one, which all watches share. `engine` puts
them together.
"""
