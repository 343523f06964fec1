"""What the documents of all kinds are made of: names, ranges, addresses, selectors, communities, each checked."""

from __future__ import annotations

import ipaddress
import re
import reprlib
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from ipam.errors import InvalidSelector
from ipam.selector import check_selector

if TYPE_CHECKING:
    from pydantic import ValidationError

#: A DNS label sequence, as Kubernetes names objects (RFC 1123, section 2.1).
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
#: The name of a resource of which there is one.
ONLY_NAME: Final = "default"
_COMMUNITY: Final = re.compile(r"(\d{1,5}):(\d{1,5})", re.ASCII)
_MAX_HALF: Final = 65535
#: Fields whose value no message may tell.
_SECRETS: Final = frozenset({"password"})


class Document(BaseModel):
    """A document or a part of one: unknown fields are refused, and names are written in camel case."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


def _digits(value: object) -> object:
    # Without quotes it is a number in YAML, and means the same.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


#: Which version of its record a document was made from; the store's own number, compared for equality only.
ResourceVersion = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,19}$"), BeforeValidator(_digits)]


class Versioned(Document):
    """What the metadata of every kind may have."""

    resource_version: ResourceVersion | None = Field(
        default=None,
        description="as `tortiectl get` shows it: what was changed since is then not written over; leave it out to "
        "write whatever is there",
    )


class Metadata(Versioned):
    """The name that identifies a resource among those of its kind."""

    name: str = Field(
        pattern=NAME_PATTERN, description="lower case letters, digits, '-' and '.', at most 253 characters"
    )


class OnlyMetadata(Versioned):
    """The name of the only resource of its kind."""

    name: Literal["default"]


def problems_of(error: ValidationError) -> list[str]:
    """Return one line for each mistake: field, value and rule; the value of a secret is left out."""
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "document"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{field}: no such field; remove it or correct its spelling")
        elif problem["type"] == "missing":
            lines.append(f"{field}: missing; it has no default")
        elif problem["type"] == "value_error":
            lines.append(f"{field}: {problem['msg'].removeprefix('Value error, ')}")
        elif _SECRETS.intersection(problem["loc"]):
            lines.append(f"{field}: {problem['msg']}; write it in quotes")
        else:
            lines.append(f"{field}: {_short(problem['input'])}: {problem['msg']}")
    return lines


def _short(value: object) -> str:
    """Return a value as text, cut short: it may be a whole document, or aliases in YAML that unfold without end."""
    shortener = reprlib.Repr()
    shortener.maxlevel = 2
    shortener.maxstring = shortener.maxother = 300
    return shortener.repr(value)


def community_pair(text: str) -> tuple[int, int]:
    """Return both halves of a community that `Community` has checked."""
    high, _, low = text.partition(":")
    return int(high), int(low)


def community_text(pair: tuple[int, int]) -> str:
    """Return a community as it is written."""
    return f"{pair[0]}:{pair[1]}"


def _strict_cidr(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is no CIDR; write it as 10.244.0.0/16 or fd00:244::/64") from error
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length; write {text}/{network.max_prefixlen} if one address is meant")
    written = ipaddress.ip_address(text.partition("/")[0])
    if written != network.network_address:
        raise ValueError(f"{text} has host bits set; write {network}")
    return str(network)


def _router_address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no address; write it as 192.0.2.1 or 2001:db8::1") from error
    if address.is_link_local:
        raise ValueError(f"{text} is link-local and means another host on each link; write a global or private address")
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text} is the address of no single host; write the router's own")
    return str(address)


def _selector(text: str) -> str:
    try:
        check_selector(text)
    except InvalidSelector as error:
        raise ValueError(str(error)) from error
    return text


def _quoted(value: object) -> object:
    # In YAML 1.1 64512:10 without quotes is a number in base 60.
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no community; write it in quotes, as '64512:100'")  # noqa: TRY004  pydantic reports ValueError
    return value


def _community(text: str) -> str:
    found = _COMMUNITY.fullmatch(text)
    if found is None or any(int(half) > _MAX_HALF for half in found.groups()):
        raise ValueError(
            f"{text!r} is no community; write two numbers from 0 to {_MAX_HALF}, as '64512:100' (RFC 1997)"
        )
    return community_text(community_pair(text))


def _distinct(texts: list[str]) -> list[str]:
    for text in texts:
        if texts.count(text) > 1:
            raise ValueError(f"{text} is there twice; keep one")
    return texts


def spelled(*words: str) -> BeforeValidator:
    """Return a validator that takes these words in upper or lower case, and leaves any other text as it is."""
    by_lower = {word.lower(): word for word in words}
    return BeforeValidator(lambda value: by_lower.get(value.lower(), value) if isinstance(value, str) else value)


#: A range without host bits, as text.
Cidr = Annotated[str, AfterValidator(_strict_cidr)]
#: The address of one router, as text.
RouterAddress = Annotated[str, AfterValidator(_router_address)]
#: An expression over the labels of nodes.
Selector = Annotated[str, AfterValidator(_selector)]
#: A standard community, two halves of 16 bits (RFC 1997), as text.
Community = Annotated[str, BeforeValidator(_quoted), AfterValidator(_community)]
#: For a list in which nothing may stand twice.
Distinct: Final = AfterValidator(_distinct)
#: An AS number of four octets; 0 and the last one are reserved (RFC 7607, RFC 7300).
AsNumber = Annotated[int, Field(ge=1, le=4294967294)]
