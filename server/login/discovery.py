"""What the provider says about itself (OpenID Connect Discovery 1.0, RFC 8414), and where its endpoints are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

DISCOVERY: Final = "/.well-known/openid-configuration"
PREFIX: Final = "/login/"
AUTHORIZE: Final = PREFIX + "authorize"
TOKEN: Final = PREFIX + "token"
USERINFO: Final = PREFIX + "userinfo"
KEYS: Final = PREFIX + "keys"
RESPONSE_MODES: Final = ("query", "form_post")
METHODS: Final = ("private_key_jwt", "client_secret_basic", "none")
"""How a site says who it is when it asks for tokens."""
_CLAIMS: Final = (
    "acr", "amr", "assertion", "at_hash", "aud", "audit", "auth_time", "contest", "exp", "iat", "iss", "log", "nonce",
    "pad", "purpose", "rate", "release", "salt", "statement", "sub",
)  # fmt: skip


def described(origin: str, algorithms: Sequence[str], acr: Sequence[str]) -> dict[str, Any]:
    """The provider's metadata.

    Args:
        origin: its issuer and the page's address.
        algorithms: of ID tokens.
        acr: what its logins may be worth at present.
    """
    return {
        "issuer": origin,
        "authorization_endpoint": origin + AUTHORIZE,
        "token_endpoint": origin + TOKEN,
        "userinfo_endpoint": origin + USERINFO,
        "jwks_uri": origin + KEYS,
        "response_types_supported": ["code"],
        "response_modes_supported": list(RESPONSE_MODES),
        "grant_types_supported": ["authorization_code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": list(algorithms),
        "token_endpoint_auth_methods_supported": list(METHODS),
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid"],
        "claims_supported": list(_CLAIMS),
        "acr_values_supported": list(acr),
        "prompt_values_supported": ["login", "consent", "select_account"],
        "authorization_response_iss_parameter_supported": True,
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
