"""Sites that ask for tokens: a client of the public rules as Authlib sees it, and how one signs that it is itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from authlib.oauth2.rfc6749 import InvalidClientError, InvalidScopeError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion

from federation.consent.login import LoginRequest
from federation.rules.clients import Client
from server.login.keys import base64url
from server.login.logins import Logins

_LONGEST_CLIENT_ASSERTION_SECONDS: Final = 600


class Asks(Protocol):
    """What of the provider a client's statement about itself is compared with.

    Attributes:
        issuer: the provider's address.
        token_endpoint: address at which clients ask for tokens.
        logins: remembers which statements were used.
        now: seconds since 1970.
    """

    issuer: str
    token_endpoint: str
    logins: Logins

    @property
    def now(self) -> int: ...  # noqa: D102 - see above


class Site:
    """A client of the rules, as Authlib asks about it (`authlib.oauth2.rfc6749.ClientMixin`)."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._method = "none" if client.key is None and client.secret_digest is None else "client_secret_basic"
        if client.key is not None:
            self._method = "private_key_jwt"

    def get_client_id(self) -> str:
        """Its identifier."""
        return self.client.identifier

    def get_default_redirect_uri(self) -> None:
        """None: a site always says where the answer is to go."""

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """What of a scope is granted: `openid` and one purpose. Other words mean nothing (OpenID Connect Core 3.1.2.1).

        Raises:
            InvalidScopeError: it is not about OpenID, or names none or several of the client's purposes.
        """
        words = (scope or "").split()
        if "openid" not in words:
            raise InvalidScopeError("The scope must have openid in it")
        named = [purpose for purpose in self.client.purposes if purpose in words]
        wanted = named or list(self.client.purposes)
        if len(wanted) != 1:
            raise InvalidScopeError("The scope must name one of the purposes that this client is registered for")
        return f"openid {wanted[0]}"

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Whether it is registered, letter by letter."""
        return redirect_uri in self.client.redirect_uris

    def may_have(self, request: LoginRequest) -> bool:
        """Whether that request is its own, and still one that the rules let it make."""
        return (
            request.client == self.client.identifier
            and request.purpose in self.client.purposes
            and request.redirect_uri in self.client.redirect_uris
        )

    def check_client_secret(self, client_secret: str) -> bool:
        """Whether it is the client's."""
        return self.client.is_secret(client_secret)

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        """Whether it is how this client says who it is."""
        return method == self._method

    def check_response_type(self, response_type: str) -> bool:
        """Whether it asks for a code."""
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        """Whether it brings a code. There are no refresh tokens: another login is another look."""
        return grant_type == str(AuthorizationCodeGrant.GRANT_TYPE)


class ClientAssertion(JWTBearerClientAssertion):  # type: ignore[misc] # Authlib has no types
    """A client that signs when it asks for tokens, with ES256."""

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, provider: Asks) -> None:
        super().__init__()
        self._provider = provider

    def get_audiences(self) -> list[str]:
        """Whom it must be meant for."""
        return [self._provider.issuer, self._provider.token_endpoint]

    def verify_claims(self, claims: Mapping[str, Any]) -> None:
        """See Authlib. Besides, it is meant for nobody else: whoever else it is meant for could show it here first.

        Raises:
            InvalidClientError: it says something else than it must.
        """
        audience = claims.get("aud")
        if isinstance(audience, list) and not all(each in self.get_audiences() for each in audience):
            raise InvalidClientError(description="Invalid claim: 'aud'")
        super().verify_claims(claims)

    def validate_jti(self, claims: Mapping[str, Any], jti: object) -> bool:
        """Whether it is shown for the first time."""
        expires_at = claims["exp"]
        if not isinstance(jti, str) or type(expires_at) is not int:
            return False
        if expires_at > self._provider.now + _LONGEST_CLIENT_ASSERTION_SECONDS + self.leeway:
            return False
        name = f"{claims['sub']} {jti}"
        return self._provider.logins.use_once(name, expires_at=expires_at + self.leeway)

    def resolve_client_public_key(self, client: Site) -> dict[str, str]:
        """Its key, as a JSON Web Key that is for ES256 and nothing else."""
        key = client.client.key
        if key is None:
            raise InvalidClientError(description="This client has no key.")
        x, y = (base64url(part) for part in (key[: len(key) // 2], key[len(key) // 2 :]))
        return {"alg": "ES256", "crv": "P-256", "kty": "EC", "use": "sig", "x": x, "y": y}
