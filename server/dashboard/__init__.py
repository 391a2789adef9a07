"""The organisation's page: what a log, rules, a release and runs say, written down for people. Holds no key.

It reads what other rooms keep and changes nothing. `server.web` serves it beside the person's page.
"""
