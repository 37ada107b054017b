"""Connecting: every kind of address and account, and what is said when it does not work."""

import asyncio
import socket
import ssl
from collections.abc import Iterator

import pytest

from bullpen import embedded
from bullpen.redis.failures import AuthenticationRefused, ConnectFailed, NotReady
from bullpen.redis.handshake import connect
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import Connection, pack_command
from support.certificates import Authority
from support.proxy import proxy
from support.waiting import eventually
from tests.support.kubernetes.processes import free_ports

PASSWORD = "s3cr3t/p@ss#word"


async def ask(connection: Connection, *words):
    return await asyncio.wait_for(connection.call(pack_command(*words)), 60)


async def whoami(connection: Connection) -> dict[str, str]:
    """This connection's own line of CLIENT LIST."""
    own = await ask(connection, "CLIENT", "ID")
    for line in (await ask(connection, "CLIENT", "LIST")).decode().splitlines():
        found = dict(part.split("=", 1) for part in line.split())
        if found["id"] == str(own):
            return found
    raise AssertionError(own)


def settings(server: embedded.Server, **changes) -> RedisSettings:
    return RedisSettings.from_url(server.url).model_copy(update=changes)


async def test_tcp_with_a_name_and_a_database(shared):
    connection = await connect(settings(shared, db=3), name="bull:ZW1haWxz:w:one")
    found = await whoami(connection)
    assert (found["name"], found["db"]) == ("bull:ZW1haWxz:w:one", "3")
    connection.close()
    await connection.wait_closed()


async def test_the_settings_name_the_connection_where_its_owner_does_not(shared):
    connection = await connect(settings(shared, client_name="shop"))
    assert (await whoami(connection))["name"] == "shop"
    connection.close()


async def test_a_unix_socket(binary):
    with embedded.start(binary=binary) as server:
        connection = await connect(RedisSettings.from_url(f"{server.url}?db=2"))
        assert (await whoami(connection))["db"] == "2"
        connection.close()


async def test_an_acl_user_that_may_do_next_to_nothing(shared):
    shared.execute(b"ACL", b"SETUSER", b"poor", b"on", b">" + PASSWORD.encode(), b"~bull:*", b"+get")
    connection = await connect(
        settings(shared, username="poor", password=RedisSettings(password=PASSWORD).password), name="x"
    )
    assert await ask(connection, "GET", "bull:a") is None
    connection.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://nobody:{wrong}@127.0.0.1:{port}", "refuses the user name or password: WRONGPASS"),
        ("redis://poor:{wrong}@127.0.0.1:{port}", "refuses the user name or password: WRONGPASS"),
        ("redis://:{wrong}@127.0.0.1:{port}", "refuses the user name or password"),
        ("redis://127.0.0.1:{port}", "asks for a password: NOAUTH"),
    ],
)
async def test_a_refused_account_is_named_and_its_password_is_not(binary, url, says):
    wrong = "wr0ng-p4ss"
    with embedded.start(binary=binary, unix=False, password=PASSWORD) as server:
        server.execute(b"ACL", b"SETUSER", b"poor", b"on", b">other", b"+@all")
        port = RedisSettings.from_url(server.url).port
        with pytest.raises(AuthenticationRefused) as caught:
            await connect(RedisSettings.from_url(url.format(wrong=wrong, port=port), origin="BULLPEN_REDIS_URL"))
    assert says in str(caught.value)
    assert f"127.0.0.1:{port}/0 (BULLPEN_REDIS_URL)" in str(caught.value)
    assert wrong not in str(caught.value)


async def test_a_password_that_redis_does_not_ask_for(shared):
    with pytest.raises(AuthenticationRefused, match="refuses the user name or password"):
        await connect(RedisSettings.from_url(shared.url.replace("redis://", f"redis://:{'x' * 20}@")))


async def test_a_database_that_is_not_there(shared):
    with pytest.raises(ConnectFailed, match="database 4000 cannot be used"):
        await connect(settings(shared, db=4000))


@pytest.mark.parametrize("password", ["", "some"])
async def test_a_full_server_says_so(own, password):
    connection = await connect(settings(own))
    await ask(connection, "CONFIG", "SET", "maxclients", 1)
    url = own.url.replace("://", f"://:{password}@") if password else own.url
    with pytest.raises(ConnectFailed, match="turns connections away: ERR max number of clients reached"):
        await connect(RedisSettings.from_url(url))
    connection.close()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody may meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:{port}/0", "127.0.0.1:{port}/0 (the Redis URL) cannot be reached: connection refused"),
        ("unix:///does/not/exist.sock", "/does/not/exist.sock (db 0) (the Redis URL) cannot be reached: no such file"),
        (
            "redis://no-such-host.invalid:6379",
            "no-such-host.invalid:6379/0 (the Redis URL) cannot be reached: the host name",
        ),
    ],
)
async def test_nobody_there(dead_port, url, says):
    with pytest.raises(ConnectFailed) as caught:
        await connect(RedisSettings.from_url(url.format(port=dead_port)))
    assert says.format(port=dead_port) in str(caught.value)


async def test_a_frozen_server_takes_connections_and_answers_none(own):
    own.freeze()
    with pytest.raises(ConnectFailed, match=r"nothing within 0\.2 s"):
        await connect(settings(own), timeout=0.2)
    own.thaw()
    (await connect(settings(own))).close()


async def test_a_server_that_loads_its_data_is_not_ready_yet(binary):
    slow = {"appendonly": "no", "save": "3600 1", "rdbcompression": "no", "key-load-delay": "2000"}
    with embedded.start(binary=binary, unix=False, config=slow) as server:
        connection = await connect(settings(server))
        await connection.call_many(b"".join(pack_command("SET", f"k{n}", "x" * 20_000) for n in range(300)), 300)
        restart = asyncio.create_task(asyncio.to_thread(server.restart))

        async def loading() -> bool:
            try:
                (await connect(settings(server), timeout=1)).close()
            except NotReady as error:
                return "LOADING" in str(error)
            except ConnectFailed:
                return False
            return False

        assert await eventually(loading, 10)
        await restart
        connection = await connect(settings(server))
        assert await ask(connection, "DBSIZE") == 300
        connection.close()


# -- TLS -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def tls_url(binary, authority):
    """A Redis behind TLS that asks for client certificates: its own TLS where it has that, else a proxy in front."""
    pair = authority.issue("server", hosts=("redis.test", "127.0.0.1"))
    (port,) = free_ports(1)
    config = {
        "tls-port": str(port),
        "tls-cert-file": str(pair.certificate),
        "tls-key-file": str(pair.key),
        "tls-ca-cert-file": str(authority.certificate),
        "tls-auth-clients": "yes",
    }
    try:
        server = embedded.start(binary=binary, config=config)
    except embedded.EmbeddedRedisError:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
        context.load_cert_chain(pair.certificate, pair.key)
        context.verify_mode = ssl.CERT_REQUIRED
        with embedded.start(binary=binary) as server:
            async with proxy(server.url, context) as front:
                yield front.url
    else:
        with server:
            yield f"rediss://127.0.0.1:{port}/0"


async def test_tls_with_an_authority_and_a_client_certificate(tls_url, authority):
    client = authority.issue("client")
    connection = await connect(
        RedisSettings.from_url(f"{tls_url}?ca={authority.certificate}&cert={client.certificate}&key={client.key}")
    )
    assert await ask(connection, "SET", "a", "x" * 100_000) == b"OK"
    assert await ask(connection, "GET", "a") == b"x" * 100_000
    replies = await asyncio.gather(*(ask(connection, "INCR", "n") for _ in range(500)))
    assert replies == list(range(1, 501))
    connection.close()
    await connection.wait_closed()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "its certificate is not trusted"),
        ("?ca={ca}&cert={cert}&key={key}&server_name=other.test", "its certificate is not trusted: hostname mismatch"),
        ("?ca={stranger}&cert={cert}&key={key}", "its certificate is not trusted"),
        ("?ca={ca}", "does it ask for a client certificate"),
    ],
    ids=["the system's authorities", "another name", "another authority", "no client certificate"],
)
async def test_tls_refuses(tls_url, authority, tmp_path, options, says):
    client = authority.issue("client")
    files = {"ca": authority.certificate, "cert": client.certificate, "key": client.key}
    files["stranger"] = Authority(tmp_path, "stranger").certificate
    with pytest.raises(ConnectFailed) as caught:
        await connect(RedisSettings.from_url(tls_url + options.format(**files)))
    assert says in str(caught.value).lower().replace("_", " ")


async def test_the_name_in_the_certificate_may_be_another_than_the_host(tls_url, authority):
    client = authority.issue("client")
    options = f"?ca={authority.certificate}&cert={client.certificate}&key={client.key}&server_name=redis.test"
    (await connect(RedisSettings.from_url(tls_url.replace("127.0.0.1", "localhost") + options))).close()


async def test_plain_at_a_tls_port_and_tls_at_a_plain_one_say_so(tls_url, shared, authority):
    with pytest.raises(ConnectFailed, match="does it expect TLS"):
        await connect(RedisSettings.from_url(tls_url.replace("rediss", "redis")), timeout=2)
    with pytest.raises(ConnectFailed, match="does it speak TLS at this port"):
        await connect(
            RedisSettings.from_url(shared.url.replace("redis", "rediss") + f"?ca={authority.certificate}"), timeout=2
        )


async def test_certificates_that_cannot_be_read_are_named(tmp_path, authority):
    client = authority.issue("client")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("not a certificate")
    for options in (f"?ca={nothing}", f"?ca={tmp_path}/none.pem", f"?cert={nothing}&key={client.key}"):
        with pytest.raises(Exception, match=r"(nothing|none)\.pem cannot be") as caught:
            await connect(RedisSettings.from_url(f"rediss://127.0.0.1:1{options}"))
        assert type(caught.value).__name__ == "ConfigurationError"
