"""Names are read as Docker reads them.

The cases follow the documented rules of github.com/distribution/reference.
"""

from __future__ import annotations

import pytest

from tintype.core.reference import Reference, is_digest, is_domain, is_tag

HEX = "0123456789abcdef" * 4
SHA256 = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "domain", "path", "familiar"),
    [
        ("web", "docker.io", "library/web", "web"),
        ("team/web", "docker.io", "team/web", "team/web"),
        ("library/web", "docker.io", "library/web", "web"),
        ("library/team/web", "docker.io", "library/team/web", "library/team/web"),
        ("docker.io/web", "docker.io", "library/web", "web"),
        ("docker.io/library/web", "docker.io", "library/web", "web"),
        ("index.docker.io/web", "docker.io", "library/web", "web"),
        ("index.docker.io/team/web", "docker.io", "team/web", "team/web"),
        ("registry-1.docker.io/web", "registry-1.docker.io", "web", "registry-1.docker.io/web"),
        ("localhost/web", "localhost", "web", "localhost/web"),
        ("localhost:5000/web", "localhost:5000", "web", "localhost:5000/web"),
        ("myhost/web", "docker.io", "myhost/web", "myhost/web"),
        ("myhost:5000/web", "myhost:5000", "web", "myhost:5000/web"),
        ("example.org/web", "example.org", "web", "example.org/web"),
        ("127.0.0.1:8000/a/b", "127.0.0.1:8000", "a/b", "127.0.0.1:8000/a/b"),
        ("[::1]:5000/web", "[::1]:5000", "web", "[::1]:5000/web"),
        ("[fc00::1]/web", "[fc00::1]", "web", "[fc00::1]/web"),
        ("Team/web", "Team", "web", "Team/web"),
        ("xn--n3h.com/web", "xn--n3h.com", "web", "xn--n3h.com/web"),
        ("test_com/web", "docker.io", "test_com/web", "test_com/web"),
        ("a---b/c__d/e.f/g_h", "docker.io", "a---b/c__d/e.f/g_h", "a---b/c__d/e.f/g_h"),
        ("192.168.0.1", "docker.io", "library/192.168.0.1", "192.168.0.1"),
        (f"docker.io/{HEX}", "docker.io", f"library/{HEX}", HEX),
        (HEX[:63], "docker.io", f"library/{HEX[:63]}", HEX[:63]),
    ],
)
def test_a_repository_is_on_the_hub_unless_it_names_a_registry(
    text: str, domain: str, path: str, familiar: str
) -> None:
    reference = Reference.parse(text)
    assert (reference.domain, reference.path) == (domain, path)
    assert (reference.tag, reference.digest) == (None, None)
    assert reference.repository == str(reference) == f"{domain}/{path}"
    assert reference.familiar == familiar
    assert Reference.parse(str(reference)) == reference
    if familiar != HEX:
        assert Reference.parse(familiar) == reference


@pytest.mark.parametrize(
    ("text", "tag", "digest"),
    [
        ("web:v1", "v1", None),
        ("web:5000", "5000", None),
        ("example.org:5000/web:V_1.0-a", "V_1.0-a", None),
        (f"web@{SHA256}", None, SHA256),
        (f"web:v1@{SHA256}", "v1", SHA256),
        (f"web@sha512:{HEX * 2}", None, f"sha512:{HEX * 2}"),
        ("web:" + "t" * 128, "t" * 128, None),
    ],
)
def test_tag_and_digest_are_told_apart(text: str, tag: str | None, digest: str | None) -> None:
    reference = Reference.parse(text)
    assert (reference.path.rpartition("/")[2], reference.tag, reference.digest) == (
        "web",
        tag,
        digest,
    )
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not the name"),
        (HEX, "image id"),
        ("team/Web", "lowercase"),
        ("example.org/team/Web:v1", "lowercase"),
        ("https://example.org/web", "not the name"),
        ("-web", "not the name"),
        ("web-", "not the name"),
        ("-team/web", "not the name"),
        ("team//web", "not the name"),
        ("team/", "not the name"),
        ("/web", "not the name"),
        ("____/____", "not the name"),
        ("a..b/web", "not the name"),
        ("a_.b/web", "not the name"),
        ("a___b/web", "not the name"),
        ("-example.org/web", "not the name"),
        ("example..org/web", "not the name"),
        ("example.org:port/web", "not the name"),
        ("fc00::1:5000/web", "not the name"),
        ("[fe80::1%eth0]:5000/web", "not the name"),
        ("[::1]", "not the name"),
        ("web:", "not the name"),
        ("web:-v1", "not the name"),
        ("web:v1:v2", "not the name"),
        ("web:" + "t" * 129, "not the name"),
        ("web:v\u00e4", "not the name"),
        ("w\u00e4b", "not the name"),
        ("web\n", "not the name"),
        ("web v1", "not the name"),
        ("web@sha256:abc", "not the name"),
        (f"web@sha256:{HEX[:62]}", "digest"),
        (f"web@sha256:{HEX.upper()}", "digest"),
        (f"web@md9:{HEX}", "digest"),
    ],
)
def test_what_docker_refuses_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Reference.parse(text)


def test_a_path_has_at_most_255_characters_without_its_registry() -> None:
    longest = "a" * 255
    assert Reference.parse(f"registry.example.org/{longest}").path == longest
    with pytest.raises(ValueError, match="255"):
        Reference.parse(f"registry.example.org/{longest}a")


def test_parts_can_be_judged_alone() -> None:
    assert is_tag("v1")
    assert not is_tag("v1:2")
    assert is_domain("example.org:5000")
    assert not is_domain("example.org:5000/web")
    assert is_digest(SHA256)
    assert not is_digest(HEX)
