"""The daemon: what makes a home learn.

    app              starts everything in order and stops it in reverse; owns threads, signals, clocks
    loop             one step: scan, accept, start or watch, serve, clean up
    intake           complete files are taken out of the inbox
    acceptance       what a file says becomes examples in memory and a job in the queue, or it fails with a reason
    preparation      a queued job becomes a request
    sessions         one session at a time is started and watched
    settlement       what a session left becomes a version, a rejected candidate or a failed job
    served_versions  which version each track answers from
    recovery         what a start and the nightly scrub find and mend
    housekeeping     what ended sessions left, and versions beyond the limits, go
    commands         what people ask for
    api, snapshot    the same and all that is told, as the socket asks for it

What never lives here: reading datasets, training, measuring, deciding what is good enough: these are handed in or lie
in folders of their own.
"""
