"""Everything that nginx serves: web sites (http, https), the login form, the package mirror, the page for monitoring.

One nginx for a host and service, with a virtual host for each name and the files that pages.py says. The files are sparse: they
take no room on the disk, and what is in an object does not matter to flows. Beside its pages a site has `/search`, which
ignores what it is asked; `/login`, which lets PEOPLE in (302) and nobody else (200, as forms do); `/upload`, which forgets
what it is sent; and `/api/`, a short JSON. The form's answer is found by nginx itself: a program behind it would cost the run
a core when passwords are guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from ..accounts import PEOPLE
from ..site import Host, Site
from .pages import Item, Page, packages, pages
from .private import HOUSE, privately
from .service import Launch, Service, names, needed, own_folder
from .tls import certificate

HEALTH_BYTES = 9_000
"""About what a node exporter answers."""
LARGEST_UPLOAD = "64m"


def start_http(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Serve the sites of all the host's names at port 80."""
    folder = own_folder(run, host, "http")
    _serve(folder, [_site(folder, name, ("listen 80", "listen [::]:80")) for name in names(host, site)], launch)


def start_https(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Serve the sites of all the host's names at port 443, each with a certificate of its own."""
    folder = own_folder(run, host, "https")
    servers = []
    for name in names(host, site):
        chain, key = certificate(run, folder, [name])
        secured = (f"ssl_certificate {HOUSE}/{chain.name}", f"ssl_certificate_key {HOUSE}/{key.name}")
        servers.append(_site(folder, name, ("listen 443 ssl http2", "listen [::]:443 ssl http2", *secured)))
    _serve(folder, servers, launch)


def start_login(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Serve one site whose use is its login form, at port 80."""
    folder = own_folder(run, host, "login")
    _serve(folder, [_site(folder, " ".join(names(host, site)), ("listen 80 default_server", "listen [::]:80"))], launch)


def start_repo(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Serve the package mirror at port 80: of pages.packages(the host's last name)."""
    folder = own_folder(run, host, "repo")
    _write_sparse(folder / "mirror", packages(names(host, site)[-1]))
    _serve(folder, [_server(("listen 80", "listen [::]:80", f"root {HOUSE}/mirror"))], launch)


def start_health(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Serve what monitoring asks for at port 9100: `/metrics`, and a short `/health`."""
    folder = own_folder(run, host, "health")
    _write_sparse(folder / "page", [Item("/metrics", HEALTH_BYTES)])
    answer = 'location = /health { default_type text/plain; return 200 "ok\\n"; }'
    _serve(folder, [_server(("listen 9100", "listen [::]:9100", f"root {HOUSE}/page"), answer)], launch)


def _site(folder: Path, name: str, settings: Sequence[str]) -> str:
    """Write the files of one site and give its server block."""
    first, *_ = name.split()
    root, made = f"sites/{first}", pages(first)
    _write_sparse(folder / root, (item for page in made for item in page.objects))
    for page in made:
        _write_page(folder / root, page)
    return _server((*settings, f"server_name {name}", f"root {HOUSE}/{root}", "index index.html"), _LOCATIONS)


def _server(settings: Iterable[str], rest: str = "") -> str:
    return "server {\n" + "".join(f"  {line};\n" for line in settings) + rest + "\n}\n"


_LOCATIONS = """
  location = /login {
    if ($request_method = POST) { rewrite ^ /checked last; }
    default_type text/html;
    return 200 '<form method="post" action="/login"><input name="username"><input name="password" type="password"></form>';
  }
  location = /checked { internal; proxy_pass http://unix:/run/checked:/login; proxy_set_header X-Right $right; }
  location = /search { default_type text/html; return 200 '<html><body><p>Nothing was found.</p></body></html>'; }
  location = /upload { proxy_pass http://unix:/run/checked:/upload; }
  location /api/ { default_type application/json; return 200 '{"time": "$time_iso8601", "id": "$request_id", "items": []}'; }
"""

_CHECKED = """
server {
  listen unix:/run/checked;
  location = /login {
    default_type text/html;
    if ($http_x_right) { return 302 /; }
    return 200 '<html><body><p>Login failed: wrong user name or password.</p></body></html>';
  }
  location = /upload { default_type text/plain; return 201 "taken\\n"; }
}
"""
"""nginx reads a request's body only when it hands it on: here it does so to itself, and tells what it found in the body."""


def _serve(folder: Path, servers: Sequence[str], launch: Launch) -> None:
    """Write nginx.conf around the server blocks, and launch."""
    (folder / "temporary").mkdir(exist_ok=True)
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{place}_temp_path {HOUSE}/temporary/{place};\n" for place in places)
    right = "".join(f'  "~{_right(person.name, person.password)}" 1;\n' for person in PEOPLE)
    lines = f"""daemon off;
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
worker_rlimit_nofile 8192;
http {{
access_log off;
sendfile on;
tcp_nopush on;
server_tokens on;
absolute_redirect off;
server_names_hash_bucket_size 128;
ssl_protocols TLSv1.2 TLSv1.3;
ssl_session_cache shared:tls:1m;
keepalive_timeout 65;
keepalive_requests 1000;
client_max_body_size {LARGEST_UPLOAD};
types {{ text/html html; text/css css; application/javascript js; image/jpeg jpg; image/png png; image/webp webp; }}
map $request_body $right {{
  default "";
{right}}}
{temporary}{"".join(servers)}{_CHECKED}}}
"""
    (folder / "nginx.conf").write_text(lines, encoding="utf-8")
    launch(privately(folder, [needed("nginx"), "-e", "stderr", "-p", HOUSE, "-c", f"{HOUSE}/nginx.conf"]))


def _right(name: str, password: str) -> str:
    """A pattern for the body of a form with this name and password, its signs written as they are or in percent."""
    spelt = "".join(re.escape(sign) if sign.isalnum() else f"({re.escape(sign)}|{_percent(sign)})" for sign in password)
    return f"(^|&)username={name}&(.*&)?password={spelt}(&|$)"


def _percent(sign: str) -> str:
    return quote(sign, safe="") if quote(sign, safe="") != sign else f"%{ord(sign):02X}"


def _write_sparse(root: Path, items: Iterable[Item]) -> None:
    for item in items:
        path = root / item.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, item.size_bytes)


def _write_page(root: Path, page: Page) -> None:
    """Write the HTML of a page, with its links, filled up to its size."""
    links = "".join(f'<img src="{item.path}">\n' for item in page.objects)
    html = f"<!DOCTYPE html><html><head><title>{page.path}</title></head><body>\n{links}"
    path = root / ("index.html" if page.path == "/" else page.path.lstrip("/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html.ljust(page.size_bytes, "."), encoding="ascii")


_NGINX = (("nginx", "openssl"), ("nginx-light", "openssl"))

SERVICES = (
    Service("http", *_NGINX, (("tcp", 80),), start_http, "web sites over HTTP: nginx"),
    Service("https", *_NGINX, (("tcp", 443),), start_https, "web sites over HTTPS: nginx"),
    Service("login", *_NGINX, (("tcp", 80),), start_login, "a web form that asks for name and password: nginx"),
    Service("repo", *_NGINX, (("tcp", 80),), start_repo, "a mirror of packages: nginx"),
    Service("health", *_NGINX, (("tcp", 9100),), start_health, "what monitoring polls: nginx"),
)
