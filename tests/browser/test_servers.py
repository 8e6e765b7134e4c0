"""The fixtures themselves: what is served is seen, and whatever goes wrong in a page is noted."""

import sys

BROKEN = """<!doctype html><title>broken</title><link rel="icon" href="data:,"><h1>A page</h1>
<img src="http://example.invalid/picture.png"><script>console.error("said so"); throw Error("a bug")</script>"""


def test_what_goes_wrong_in_a_page_is_noted(watch, serve_folder, tmp_path):
    (tmp_path / "index.html").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "fine.html").write_text("<!doctype html><link rel=icon href='data:,'><p>fine", encoding="utf-8")
    url = serve_folder(tmp_path)
    watch.page.goto(f"{url}/fine.html")
    assert watch.page.get_by_text("fine").is_visible() and not watch.problems
    watch.page.goto(url)
    assert watch.page.get_by_role("heading").inner_text() == "A page"
    found, watch.problems[:] = "\n".join(watch.problems), []
    for problem in ("script: a bug", "console: said so", "asked for http://example.invalid/picture.png"):
        assert problem in found, found


def test_a_command_is_served_at_the_address_that_it_prints(page, serve_command, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><link rel=icon href='data:,'><p>served", encoding="utf-8")
    program = """if True:
        from http.server import HTTPServer, SimpleHTTPRequestHandler
        server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
        print(f"open http://127.0.0.1:{server.server_port}/?token=abc")
        server.serve_forever()"""
    url = serve_command(sys.executable, "-c", program, folder=tmp_path)
    assert url.endswith("/?token=abc")
    page.goto(url)
    assert page.get_by_text("served").is_visible()
