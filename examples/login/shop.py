"""The small site. It knows nothing of this project: Starlette, and Authlib's client for any OpenID provider."""

from __future__ import annotations

import html
import secrets

from authlib.integrations.starlette_client import OAuth, OAuthError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT = "shop.example.org"
BACK = "/back"
_STYLE = (
    "<style>body{font:1.1em/1.5 system-ui;max-width:40em;margin:4em auto;padding:0 1em}dt{font-weight:bold}</style>"
)


def shop(provider: str, secret: str) -> Starlette:
    """The site as an ASGI application.

    Args:
        provider: address of the OpenID provider.
        secret: that was registered for the site.
    """
    oauth = OAuth()
    oauth.register(
        "face",
        client_id=CLIENT,
        client_secret=secret,
        server_metadata_url=f"{provider}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid", "code_challenge_method": "S256"},
    )

    async def home(request: Request) -> Response:
        person = request.session.get("person")
        if person is None:
            return _page('<p>You are nobody here yet.</p><p><a id="login" href="/login">Log in with your face</a></p>')
        facts = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in person.items())
        return _page(f'<p id="known">You are logged in.</p><dl>{facts}</dl><p><a href="/logout">Log out</a></p>')

    async def login(request: Request) -> Response:
        back: Response = await oauth.face.authorize_redirect(request, f"http://{request.url.netloc}{BACK}")
        return back

    async def back(request: Request) -> Response:
        try:
            claims = (await oauth.face.authorize_access_token(request))["userinfo"]
        except OAuthError as error:
            return _page(f'<p id="refused">Not logged in: {html.escape(error.error)}.</p><p><a href="/">Back</a></p>')
        known = ("sub", "statement", "acr", "contest")
        request.session["person"] = {name: str(claims[name]) for name in known}
        return RedirectResponse("/", 303)

    async def logout(request: Request) -> Response:
        request.session.clear()
        return RedirectResponse("/", 303)

    routes = [Route("/", home), Route("/login", login), Route(BACK, back), Route("/logout", logout)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, secret_key=secrets.token_hex(32))])


def _page(content: str) -> Response:
    return HTMLResponse(
        f'<!doctype html><meta charset="utf-8"><title>Example shop</title>{_STYLE}<h1>Example shop</h1>{content}'
    )
