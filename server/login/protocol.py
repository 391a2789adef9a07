"""OAuth 2.0 and OpenID Connect as Authlib has them, with fewer choices than they leave.

What stands here narrows: one flow (authorization code), PKCE with S256 for every client, addresses compared letter by
letter, no parameter twice, and every limit on what a stranger sends. What follows the specifications stands in Authlib.
Nobody is ever logged in here already, so `prompt=none` is always refused, and every `max_age` is kept.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from authlib.oauth2.rfc6749 import (
    AccessDeniedError,
    AuthorizationServer,
    InvalidGrantError,
    InvalidRequestError,
    OAuth2Error,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode
from authlib.oidc.core.util import create_half_hash

from federation.consent.assertion import Assertion, verify_assertion
from federation.consent.login import MOST_NONCE_CHARACTERS, SALT_BYTES, LoginRequest, login_claims
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.rules.clients import Client
from server.login.discovery import METHODS, RESPONSE_MODES
from server.login.keys import SigningKeys
from server.login.logins import TOKEN_SECONDS, Login, Logins, digest_of
from server.login.sites import ClientAssertion, Site
from server.rules.public import PublicRules

MOST_STATE_CHARACTERS: Final = 1024
_VISIBLE: Final = re.compile(r"[ -~]*")
_QUOTABLE: Final = re.compile(r"[ !#-\[\]-~]*")
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_PROMPTS: Final = frozenset({"none", "login", "consent", "select_account"})
_SECRET_BYTES: Final = 32
_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What parsers raise of foreign bytes, such as a header that is no UTF-8: Authlib does not catch all of it."""
_KEPT: Final = (
    "client_id", "code_challenge", "code_challenge_method", "nonce", "redirect_uri", "response_mode", "response_type",
    "scope", "state",
)  # fmt: skip


class LoginRequiredError(OAuth2Error):  # type: ignore[misc] # Authlib has no types
    """Nobody is logged in here, ever."""

    error = "login_required"


class NotSupportedError(OAuth2Error):  # type: ignore[misc] # as above
    """A way to send a request that this provider does not have."""


class Asked(OAuth2Request):  # type: ignore[misc] # as above
    """A request as Authlib looks at it.

    Args:
        method: GET or POST.
        uri: of the endpoint.
        parameters: of the query, or of the form; each once.
        headers: by name.
    """

    def __init__(
        self, method: str, uri: str, parameters: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(method, uri, headers=dict(headers or {}))
        self._parameters = dict(parameters)
        self.payload = BasicOAuth2Payload(self._parameters)

    @property
    def args(self) -> dict[str, str]:
        """Parameters."""
        return self._parameters

    @property
    def form(self) -> dict[str, str]:
        """Parameters."""
        return self._parameters


class _Code:
    """A code that was taken, as Authlib asks about it."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.code_challenge = login.request.code_challenge
        self.code_challenge_method = "S256"

    def get_redirect_uri(self) -> str:
        """Where it was sent."""
        return self.login.request.redirect_uri

    def get_scope(self) -> str:
        """What was granted."""
        return f"openid {self.login.request.purpose}"


class _Grant(AuthorizationCodeGrant):  # type: ignore[misc] # Authlib has no types
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = list(METHODS)

    def query_authorization_code(self, code: str, client: Site) -> _Code | None:
        """Takes the code, whoever brings it: it has leaked if it comes from anybody but its client.

        Raises:
            UnavailableError: a token is away, so nothing could be signed, and the code stays good.
        """
        self.server.keys.require_there()
        login = self.server.logins.take(code, now=self.server.now)
        return _Code(login) if login is not None and client.may_have(login.request) else None

    def delete_authorization_code(self, authorization_code: _Code) -> None:
        """It was taken when it was looked for."""

    def authenticate_user(self, authorization_code: _Code) -> Login:
        """Whose face it was: a login."""
        return authorization_code.login


class _RequiredChallenge(CodeChallenge):  # type: ignore[misc] # Authlib has no types
    """PKCE for everybody, and never in the clear."""

    SUPPORTED_CODE_CHALLENGE_METHOD: Final = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: object) -> None:  # noqa: ANN401 - Authlib has no types
        """See Authlib. Besides, there has to be one."""
        data = grant.request.payload.data
        if not _CHALLENGE.fullmatch(data.get("code_challenge") or "") or data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("A code_challenge is needed, with the code_challenge_method S256")
        super().validate_code_challenge(grant, redirect_uri)


class _IdToken(OpenIDCode):  # type: ignore[misc] # Authlib has no types
    """What the site gets to know."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(require_nonce=False)
        self._provider = provider

    def exists_nonce(self, nonce: str, request: Asked) -> bool:  # noqa: ARG002 - Authlib asks so
        """Never: a nonce is the client's, and the salt beside it is fresh."""
        return False

    def validate_openid_authorization_request(self, grant: Any, _: object) -> None:  # noqa: ANN401 - as above
        """What OpenID adds to a request."""
        _require_known(grant.request.payload.data)

    def encode_id_token(self, token: dict[str, Any], request: Asked) -> str:
        """The ID token for a code."""
        client: Client = request.client.client
        now, algorithm = self._provider.now, client.algorithm
        claims = self._provider.claims_of(request.authorization_code.login) | {
            "at_hash": create_half_hash(token["access_token"], algorithm.value).decode(),
            "exp": now + TOKEN_SECONDS,
            "iat": now,
        }
        return self._provider.keys.sign(claims, algorithm)


class Provider(AuthorizationServer):  # type: ignore[misc] # Authlib has no types
    """The provider's decisions, without HTTP. Calls wait for the database.

    Args:
        issuer: its address, and that of the page.
        token_endpoint: address at which clients ask for tokens.
        rules: who is registered, and who signs assertions.
        logins: what is under way.
        keys: sign ID tokens.
        accepts_trials: whether a release will do that is a trial; the ID token says so in `acr`.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        issuer: str,
        token_endpoint: str,
        rules: PublicRules,
        logins: Logins,
        keys: SigningKeys,
        *,
        accepts_trials: bool,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        if rules.issuer is None:
            raise UsageError("the public rules register no issuer of assertions, so nobody can be logged in")
        self.issuer = issuer
        self.token_endpoint = token_endpoint
        self.logins = logins
        self.keys = keys
        self._rules = rules
        self._accepts_trials = accepts_trials
        self._clock = clock
        self.register_grant(_Grant, [_RequiredChallenge(required=True), _IdToken(self)])
        self.register_client_auth_method(ClientAssertion.CLIENT_AUTH_METHOD, ClientAssertion(self))
        self.register_token_generator("default", _access_token)

    @property
    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock())

    # ------------------------------------------------------------------ what a person's browser asks for

    def ask(self, parameters: Mapping[str, str], *, browser: str) -> str:
        """A site sends a person. Gives the handle of the login that begins.

        Raises:
            OAuth2Error: the request is none; `redirect_uri` says where that may be told, or is None.
            UnavailableError: too many logins are under way.
        """
        request = self._request_of(parameters, secrets.token_bytes(SALT_BYTES))
        handle = secrets.token_urlsafe(_SECRET_BYTES)
        kept = {name: parameters[name] for name in _KEPT if name in parameters}
        self.logins.begin(Login(digest_of(handle), kept, request), browser=browser, now=self.now)
        return handle

    def asked(self, handle: str, *, browser: str) -> Login:
        """What a login is about, for the page in the browser that began it.

        Raises:
            RefusedError: no such login, or in another browser, or the rules do not let the site ask this any more, or
                somebody wrote into the database.
        """
        login = self.logins.find(handle, browser=browser, now=self.now)
        try:
            is_as_asked = self._request_of(login.asked, login.request.salt) == login.request
        except OAuth2Error:
            is_as_asked = False
        if not is_as_asked:
            raise RefusedError("the site is not registered for this any more")
        return login

    def answer(self, handle: str, assertion: str, *, browser: str) -> None:
        """The page brings the assertion of a match. Only this opens the way to a code.

        Raises:
            RefusedError: as for `asked`.
            ProofError, MalformedMessageError: the assertion is not about exactly this request.
        """
        login, now = self.asked(handle, browser=browser), self.now
        self._verified(assertion, login.request, now)
        self.logins.answer(handle, assertion, browser=browser, now=now)

    def finish(self, handle: str, *, browser: str) -> tuple[Login, list[tuple[str, str]]]:
        """The way back to the site: the login, and what it is told.

        Raises:
            RefusedError: as for `asked`, or nothing was answered.
        """
        login = self.asked(handle, browser=browser)
        code = secrets.token_urlsafe(_SECRET_BYTES)
        self.logins.finish(handle, code, browser=browser, now=self.now)
        return login, self.told(login.asked, [("code", code)])

    def give_up(self, handle: str, *, browser: str) -> tuple[Login, list[tuple[str, str]]]:
        """The person does not want to: the login, and what the site is told.

        Raises:
            RefusedError: as for `asked`.
        """
        login = self.asked(handle, browser=browser)
        self.logins.give_up(handle, browser=browser)
        return login, self.told(login.asked, [("error", AccessDeniedError.error)])

    def told(self, parameters: Mapping[str, str], answer: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """An answer to a site, with its own state and the name of this provider (RFC 9207)."""
        state = parameters.get("state")
        own = [("state", state)] if state is not None and len(state) <= MOST_STATE_CHARACTERS else []
        return [*answer, *own, ("iss", self.issuer)]

    # ------------------------------------------------------------------ what a site asks for

    def exchange(self, parameters: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, Any, list[Any]]:
        """Tokens for a code: status, body and headers."""
        request = Asked("POST", self.token_endpoint, parameters, headers)
        try:
            _require_plain(parameters)
            _require_one_credential(request)
            return self.create_token_response(request)  # type: ignore[no-any-return]
        except OAuth2Error as error:
            return self.handle_error_response(request, error)  # type: ignore[no-any-return]
        except (MalformedMessageError, ProofError, RefusedError):
            # Somebody wrote into the database, or the code came again meanwhile.
            return self.handle_error_response(request, InvalidGrantError())  # type: ignore[no-any-return]
        except _UNREADABLE:
            unreadable = InvalidRequestError("The request cannot be read")
            return self.handle_error_response(request, unreadable)  # type: ignore[no-any-return]

    def subject_of(self, token: str) -> str | None:
        """All that an access token is good for: the pseudonym that the ID token named too, or None."""
        login = self.logins.of_token(token, now=self.now)
        return None if login is None else str(self.claims_of(login)["sub"])

    def claims_of(self, login: Login) -> dict[str, Any]:
        """What the site of a login learns. Made of an assertion that is verified once more, and of nothing else.

        Raises:
            RefusedError: there is none.
            ProofError: it is not about this login.
        """
        if login.assertion is None or login.answered_at is None:
            raise RefusedError("nobody was accepted")
        assertion = self._verified(login.assertion, login.request, login.answered_at)
        return login_claims(assertion, login.assertion, login.request)

    def _verified(self, token: str, request: LoginRequest, now: int) -> Assertion:
        issuer = self._rules.issuer
        if issuer is None:
            raise RefusedError("the public rules register no issuer of assertions")
        return verify_assertion(
            token,
            issuer_public_key=issuer.public_key,
            expected_issuer=issuer.address,
            expected_audience=request.client,
            expected_purpose=request.purpose,
            expected_nonce=request.audience_nonce,
            now=now,
            accepts_trials=self._accepts_trials,
        )

    # ------------------------------------------------------------------ what Authlib asks for

    def query_client(self, client_id: str) -> Site | None:
        """A client of the rules that may log people in now."""
        client = self._rules.client(client_id, self.now)
        return None if client is None else Site(client)

    def save_token(self, token: dict[str, Any], request: Asked) -> None:
        """Remembers the access token's digest."""
        self.logins.give_token(request.authorization_code.login, token["access_token"], now=self.now)

    def create_oauth2_request(self, request: Asked) -> Asked:
        """They are made before they come here."""
        return request

    def handle_response(self, status: int, body: Any, headers: list[Any]) -> tuple[int, Any, list[Any]]:  # noqa: ANN401
        """As `server.login.provider` answers."""
        return status, body, headers

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def _request_of(self, parameters: Mapping[str, str], salt: bytes) -> LoginRequest:
        """What a site asks, by the rules as they are now.

        Raises:
            OAuth2Error: see `ask`.
        """
        grant = self._grant_of(parameters)
        return LoginRequest(
            provider=self.issuer,
            client=grant.request.client.get_client_id(),
            purpose=grant.request.scope.split()[1],
            redirect_uri=grant.redirect_uri,
            nonce=parameters.get("nonce", ""),
            code_challenge=parameters["code_challenge"],
            salt=salt,
        )

    def _grant_of(self, parameters: Mapping[str, str]) -> Any:  # noqa: ANN401 - Authlib has no types
        _require_plain(parameters)
        request = Asked("GET", self.issuer, parameters)
        try:
            return self.get_consent_grant(request, end_user=self)  # somebody, so that no prompt is asked for
        except _UNREADABLE:
            raise InvalidRequestError("The request cannot be read") from None


def _require_plain(parameters: Mapping[str, str]) -> None:
    """Returns when what Authlib may quote can be quoted (RFC 6749, section 4.1.2.1); it fails where it cannot.

    Raises:
        InvalidRequestError: it cannot.
    """
    for name in ("client_id", "code_challenge", "code_challenge_method", "grant_type", "redirect_uri", "response_type"):
        if not _QUOTABLE.fullmatch(parameters.get(name, "")):
            raise InvalidRequestError(f"The {name} has characters that none has")


def _require_known(data: Mapping[str, str]) -> None:
    """What is narrower here than in OpenID.

    Raises:
        OAuth2Error: the request cannot be served.
    """
    for name in ("request", "request_uri", "registration"):
        if name in data:
            raise NotSupportedError(error=f"{name}_not_supported", description="Send plain parameters.")
    if data.get("response_mode", "query") not in RESPONSE_MODES:
        raise InvalidRequestError("The response_mode must be query or form_post")
    for name, most in (("state", MOST_STATE_CHARACTERS), ("nonce", MOST_NONCE_CHARACTERS)):
        if len(data.get(name, "")) > most or not _VISIBLE.fullmatch(data.get(name, "")):
            raise InvalidRequestError(f"A {name} has at most {most} printable ASCII characters")
    if " " in data.get("nonce", ""):
        raise InvalidRequestError("A nonce has no spaces")
    if not re.fullmatch(r"[0-9]{0,9}", data.get("max_age", "")):
        raise InvalidRequestError("A max_age is a number of seconds")
    prompts = data.get("prompt", "").split()
    if not _PROMPTS.issuperset(prompts) or ("none" in prompts and len(prompts) > 1):
        raise InvalidRequestError("The prompt is none, or of login, consent and select_account")
    if "none" in prompts:
        raise LoginRequiredError("Every login needs the person's face")


def _require_one_credential(request: Asked) -> None:
    """Returns when a client says who it is in one way (RFC 6749, section 2.3)."""
    form = request.form
    ways = [request.headers.get("Authorization"), form.get("client_secret"), form.get("client_assertion")]
    if sum(way is not None for way in ways) > 1:
        raise InvalidRequestError("Authenticate in one way")


def _access_token(*, scope: str, **_: object) -> dict[str, object]:
    """What Authlib puts an ID token beside. It opens `userinfo` and nothing else."""
    return {
        "access_token": secrets.token_urlsafe(_SECRET_BYTES),
        "expires_in": TOKEN_SECONDS,
        "scope": scope,
        "token_type": "Bearer",
    }
