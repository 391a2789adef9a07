"""The OpenID provider: a site sends a person to the page, and gets an ID token when the face matched.

It stands in front of the matching service and is one of those who rely on it: it believes an assertion and nothing
else, and says nothing of its own about a person. Authlib has the protocol. The room `web` serves it beside the page.
"""
