"""A web page for operators: what the mesh does now, what it did, and what can be done about it.

    access      who may look and who may act
    mesh        the facts, read once for all viewers
    live        streams of events, which carry the parts of a page that changed
    actions     what an operator does: a confirmation, a post, a result
    pages/      one file a page: the facts of the page as its templates take them
    app         the routes; `serving` listens

It needs the extra `dashboard`. Nothing here is imported by workers, schedulers or producers.
"""
