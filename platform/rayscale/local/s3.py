"""The S3 server of the embedded stack: OpenStack Swift with its S3 interface, in one process.

    python -m rayscale.local.s3 --home .rayscale --port 9000

Swift is four servers (account, container, object and the proxy that speaks S3); here they are four sets of
green threads. Data and keys live under ``<home>/s3`` and survive restarts and ``kill -9``. Everything listens on
loopback only, and the three inner servers answer nobody but the proxy of the same process.
"""

from __future__ import annotations

import argparse
import hmac
import json
import logging
import os
import secrets
import socket
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rayscale import strictjson
from rayscale.errors import ConfigError
from rayscale.files import replacing
from rayscale.local.processes import Service, answers

HOST = "127.0.0.1"
REGION = "us-east-1"
_INNER = ("account", "container", "object")
_GUARD_HEADER = "X-Rayscale-Guard"
_CACHE_ENTRIES = 10_000
_TIMEOUT_S = (
    60  # of every inner request: a listing must not miss an object because the disk was slow
)

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def service(home: Path, port: int) -> Service:
    """How the stack runs this server."""
    return Service(
        name="s3",
        address=f"http://{HOST}:{port}",
        command=[
            sys.executable,
            "-m",
            "rayscale.local.s3",
            "--home",
            str(home),
            "--port",
            str(port),
        ],
        environment={},
        cwd=home,
        ports=frozenset([port]),
        ready=lambda: answers(f"http://{HOST}:{port}/healthcheck"),
        timeout_s=60,
    )


def keys(home: Path) -> tuple[str, str]:
    """Access key and secret key of the server in ``home``, made at first use, readable by the owner only."""
    path = home / "s3" / "keys.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = {
            "access_key": "rayscale:local",
            "secret_key": secrets.token_hex(20),
            "hash_suffix": secrets.token_hex(16),
        }
        with replacing(path, private=True) as file:
            file.write(strictjson.dumps(written).encode())
    read = json.loads(path.read_text())
    return read["access_key"], read["secret_key"]


def main() -> None:
    """Serve until killed. Killing is the way to stop: every write on disk is atomic."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="folder of the stack")
    parser.add_argument(
        "--port", type=int, required=True, help="port of the S3 interface on loopback"
    )
    options = parser.parse_args()
    try:
        serve(options.home.resolve(), options.port)
    except ConfigError as error:
        sys.exit(f"rayscale.local.s3: {error}")


def serve(home: Path, port: int) -> None:
    """Run the four servers in this process; returns never."""
    os.environ["TZ"] = "UTC+0"  # Swift's times are local times of UTC
    time.tzset()
    keys(home)
    folder = home / "s3"
    devices = folder / "devices"
    (devices / "disk").mkdir(parents=True, exist_ok=True)
    _require_attributes(devices)

    from swift.common import utils

    utils.monkey_patch()  # before anything opens a socket
    _log_to_stderr()

    import eventlet.event
    import eventlet.hubs
    from swift.common.bufferedhttp import BufferedHTTPConnection

    eventlet.hubs.use_hub(
        utils.get_hub()
    )  # once per thread: a second call hangs or breaks the first
    sockets = {name: eventlet.listen((HOST, 0)) for name in _INNER}
    try:
        # By default, eventlet shares the port with any other server that does so too: another stack's.
        sockets["proxy"] = eventlet.listen((HOST, port), backlog=512, reuse_port=False)
    except OSError as error:
        raise ConfigError(f"port {port} of {HOST} cannot be used: {error.strerror}") from error

    files = _configure(folder, {name: s.getsockname()[1] for name, s in sockets.items()})
    utils.set_swift_dir(str(folder))
    utils.validate_configuration()
    utils.disable_fallocate()
    guard = secrets.token_hex(32)
    _guard_requests(BufferedHTTPConnection, guard)
    ended = eventlet.event.Event()
    for name in (*_INNER, "proxy"):
        server = eventlet.spawn(
            _serve_one, sockets[name], files[name], "" if name == "proxy" else guard
        )
        server.link(lambda thread: ended.ready() or ended.send(thread))
    ended.wait().wait()  # one that ends, with its error, ends them all


def _serve_one(listener: socket.socket, file: Path, guard: str) -> None:
    """Serve one Swift application, as ``swift.common.wsgi.run_server`` does less its process-wide part."""
    import warnings

    from eventlet import wsgi
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.utils import NullLogger
    from swift.common.wsgi import RestrictedGreenPool, loadapp

    app = loadapp(str(file), global_conf={"log_name": file.stem})
    warnings.filterwarnings("ignore", message="capitalize_response_headers is disabled")
    wsgi.server(
        listener,
        _guard(app, guard) if guard else app,
        NullLogger(),
        custom_pool=RestrictedGreenPool(size=1024),
        protocol=SwiftHttpProtocol,
        socket_timeout=_TIMEOUT_S,
        capitalize_response_headers=False,  # boto wants "ETag" as it is spelt
        url_length_limit=16384,
    )


def _guard_requests(connection: Any, guard: str) -> None:
    """Make the proxy's requests to the inner servers carry the guard of this process."""
    plain = connection.endheaders

    def endheaders(self: Any, *args: Any, **options: Any) -> Any:
        self.putheader(_GUARD_HEADER, guard)
        return plain(self, *args, **options)

    connection.endheaders = endheaders


def _guard(app: WsgiApp, guard: str) -> WsgiApp:
    """The inner servers know no keys, and their ports are open to every user of the machine."""
    name = "HTTP_" + _GUARD_HEADER.upper().replace("-", "_")

    def guarded(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not hmac.compare_digest(environment.get(name, "").encode(), guard.encode()):
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        return app(environment, start_response)

    return guarded


def lock_filter(global_conf: dict[str, str], **_: str) -> Callable[[WsgiApp], WsgiApp]:
    """Conditional writes, one at a time per object: Swift checks first and writes later, so two could win."""
    from eventlet.semaphore import Semaphore

    locks: defaultdict[str, Any] = defaultdict(Semaphore)
    waiting: defaultdict[str, int] = defaultdict(int)

    def wrap(app: WsgiApp) -> WsgiApp:
        def locked(
            environment: dict[str, Any], start_response: Callable[..., Any]
        ) -> Iterable[bytes]:
            if environment["REQUEST_METHOD"] != "PUT" or "HTTP_IF_NONE_MATCH" not in environment:
                return app(environment, start_response)
            path = environment["PATH_INFO"]
            waiting[path] += 1
            try:
                with locks[path]:
                    return list(app(environment, start_response))
            finally:
                waiting[path] -= 1
                if not waiting[path]:
                    del waiting[path], locks[path]

        return locked

    return wrap


def cache_filter(global_conf: dict[str, str], **_: str) -> Callable[[WsgiApp], WsgiApp]:
    """Swift's cache of account and container facts, in this process instead of a memcached."""
    memory = _Memory()

    def wrap(app: WsgiApp) -> WsgiApp:
        def cached(
            environment: dict[str, Any], start_response: Callable[..., Any]
        ) -> Iterable[bytes]:
            environment["swift.cache"] = memory
            return app(environment, start_response)

        return cached

    return wrap


class _Memory:
    """What Swift calls of a memcache client. Values pass through JSON, as they would on the wire."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def get(self, key: str, **_: object) -> Any:
        expires, text = self._values.get(key, (0.0, "null"))
        return json.loads(text) if expires > time.time() else None

    def set(self, key: str, value: object, time: float = 0, **_: object) -> None:
        self._values[key] = (_now() + (time or 86400), strictjson.dumps(value))
        self._values.move_to_end(key)
        while len(self._values) > _CACHE_ENTRIES:
            self._values.popitem(last=False)

    def delete(self, key: str, **_: object) -> None:
        self._values.pop(key, None)

    def incr(self, key: str, delta: int = 1, time: float = 0, **_: object) -> int:
        value = max(0, int(self.get(key) or 0) + delta)
        self.set(key, value, time=time)
        return value

    def decr(self, key: str, delta: int = 1, time: float = 0, **_: object) -> int:
        return self.incr(key, -delta, time=time)

    def set_multi(self, mapping: dict[str, object], _: str, time: float = 0, **__: object) -> None:
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys: Iterable[str], _: str) -> list[Any]:
        return [self.get(key) for key in keys]


def _now() -> float:
    return time.time()  # under a name that the parameters called ``time`` do not hide


def _configure(folder: Path, ports: dict[str, int]) -> dict[str, Path]:
    """Write swift.conf, the rings and one file per server; returns the files by server."""
    from swift.common.ring import RingBuilder

    kept = json.loads((folder / "keys.json").read_text())
    user = kept["access_key"].replace(":", "_")
    (folder / "swift.conf").write_text(
        f"[swift-hash]\nswift_hash_path_suffix = {kept['hash_suffix']}\n"
        "[swift-constraints]\nmax_header_size = 16384\n"
        "[storage-policy:0]\nname = local\ndefault = yes\n"
    )
    default = (
        f"[DEFAULT]\nswift_dir = {folder}\ndevices = {folder}/devices\nmount_check = false\n"
        f"disable_fallocate = true\nbind_ip = {HOST}\nworkers = 0\nlog_level = ERROR\n"
        f"conn_timeout = {_TIMEOUT_S}\nnode_timeout = {_TIMEOUT_S}\ncontainer_update_timeout = {_TIMEOUT_S}\n"
    )
    files = {name: folder / f"{name}.conf" for name in (*_INNER, "proxy")}
    for name in _INNER:
        builder = RingBuilder(4, 1, 1)  # 16 partitions, one copy
        builder.add_dev(
            {"region": 1, "zone": 1, "ip": HOST, "port": ports[name], "device": "disk", "weight": 1}
        )
        builder.rebalance(seed=1)
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))
        files[name].write_text(f"{default}[app:main]\nuse = egg:swift#{name}\n")
    filters = {
        "lock": "paste.filter_factory = rayscale.local.s3:lock_filter",
        "cache": "paste.filter_factory = rayscale.local.s3:cache_filter",
        "s3api": f"use = egg:swift#s3api\nlocation = {REGION}\ndns_compliant_bucket_names = false\n"
        "max_upload_part_num = 10000",
        "tempauth": f"use = egg:swift#tempauth\nuser_{user} = {kept['secret_key']} .admin",
        # Asynchronous deletion would need a daemon to ever free the parts on disk.
        "slo": "use = egg:swift#slo\nmax_manifest_segments = 10000\nallow_async_delete = false",
    }
    pipeline = (
        "catch_errors healthcheck lock cache listing_formats bulk s3api tempauth slo dlo "
        "versioned_writes copy symlink proxy-logging proxy-server"
    )
    sections = [default, f"[pipeline:main]\npipeline = {pipeline}\n"]
    for name in pipeline.split()[:-1]:
        text = filters.get(name, f"use = egg:swift#{name.replace('-', '_')}")
        sections.append(f"[filter:{name}]\n{text}\n")
    sections.append(
        "[app:proxy-server]\nuse = egg:swift#proxy\n"
        "account_autocreate = true\nallow_account_management = true\n"
    )
    with open(os.open(files["proxy"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("".join(sections))
    return files


def _log_to_stderr() -> None:
    """Swift logs to syslog only, and to a UDP port where there is none."""
    from swift.common.utils import logs

    logs.ThreadSafeSysLogHandler = lambda *_, **__: logging.NullHandler()
    logs.get_swift_logger.console_handler4logger = {}


def _require_attributes(folder: Path) -> None:
    """Swift keeps the metadata of objects in extended attributes, which some file systems lack."""
    probe = folder / ".probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.rayscale", b"x" * 512)
    except OSError as error:
        raise ConfigError(
            f"{folder} is on a file system without user attributes ({error.strerror}), which the S3 server "
            "needs; set RAYSCALE_HOME to a folder on ext4, xfs or btrfs"
        ) from error
    finally:
        probe.unlink()


if __name__ == "__main__":
    main()
