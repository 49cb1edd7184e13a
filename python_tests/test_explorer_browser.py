"""The page in headless Chromium, cut off from every other computer: what a visitor does, and what comes out."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import wfdb
from ecg_samples import sample_record
from PIL import Image

from ecgtwin_fast import NOTICE
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.record import read_record, write_wfdb

pytest.importorskip("gradio", reason="the page needs Gradio: pip install '.[demo]'")
webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium: pip install selenium")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("no Chromium with chromedriver: apt-get install chromium chromium-driver", allow_module_level=True)

PATIENCE = 20.0
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1500,1150",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def until(condition, what: str):
    """The first true value of `condition`, asked again and again: parts of the page change one after another."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except StaleElementReferenceException:
            pass
        time.sleep(0.05)
    raise AssertionError(f"no {what} within {PATIENCE:g} s")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of the page, the folder of the process's temporary files, and the process."""
    temporary = tmp_path_factory.mktemp("temporary")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "ecgtwin_fast", "explore", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port} " in line
    yield f"http://127.0.0.1:{port}/", temporary, process
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = tmp_path_factory.mktemp("downloads")
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(driver.downloads)}
    )  # fmt: skip
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, served):
    """The page, freshly loaded, with the reference drawn."""
    browser.get(served[0])
    until(lambda: len(papers(browser)) == 1, "reference")
    return browser


def all_of(page, selector: str):
    return page.find_elements("css selector", selector)


def papers(page):
    return all_of(page, "svg.ecg")


def click(page, selector: str, index: int = 0) -> None:
    element = until(lambda: all_of(page, selector)[index:], selector)[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def status(page, words: str) -> str:
    """The status line, once it holds these words."""
    return until(lambda: (line := all_of(page, "#status")[0].text) and words in line and line, words)


def rows(page) -> list[str]:
    return [row.text for row in all_of(page, "table.measured tbody tr")]


def generate(page) -> str:
    click(page, "#generate")
    until(lambda: len(papers(page)) == 2 and len(rows(page)) == 5, "twins")
    return status(page, "twins in")


def upload(page, *files) -> None:
    click(page, "#kind input", -1)
    field = until(lambda: all_of(page, "#files input[type=file]"), "field for files")[0]
    field.send_keys("\n".join(str(file) for file in files))


def test_the_page_loads_without_any_other_computer(page, served):
    assert page.title == "ECGTwin explorer"
    assert page.find_element("tag name", "body").text.count(NOTICE) == 1
    assert "simulated patient" in status(page, "bpm")
    assert len(rows(page)) == 1
    fetched = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert fetched and all(address.startswith((served[0], "data:")) for address in fetched)


def test_generate_compare_edit_and_attend(page, tmp_path):
    assert "ms each" in generate(page)
    assert rows(page)[1].startswith("Twin 1 110 bpm")
    click(page, "#layout input", 2)
    until(lambda: len(papers(page)) == 1 and all_of(page, "svg.ecg .second"), "overlaid twin")
    click(page, "#layout input", 0)
    click(page, "#edit")
    status(page, "an edit")
    until(lambda: len(rows(page)) == 6 and rows(page)[5].startswith("Edit 1 (twin 1, ×1)"), "row of the edit")
    click(page, "#attention input")
    until(lambda: len(all_of(page, "svg.ecg .attention")) == 3, "strips of one and of two statements")
    page.execute_script("window.scrollTo(0, 0)")
    assert page.save_screenshot(str(tmp_path / "explorer.png"))
    with Image.open(tmp_path / "explorer.png") as picture:
        assert min(picture.size) > 900 and len(picture.convert("L").getcolors()) > 100
    click(page, "table.measured tbody tr", 3)
    until(lambda: "Twin 3" in all_of(page, ".sheet .caption")[1].text, "twin of the row")


def test_zoom_is_shared_and_a_drag_measures(page):
    from selenium.webdriver.common.action_chains import ActionChains

    generate(page)
    boxes = [paper.get_dom_attribute("viewBox") for paper in papers(page)]
    click(page, "[data-zoom='1.6']")
    zoomed = [paper.get_dom_attribute("viewBox") for paper in papers(page)]
    width = float(boxes[0].split()[2]) / 1.6
    assert [float(box.split()[2]) for box in zoomed] == pytest.approx([width, width])
    click(page, "[data-zoom='0']")
    assert [paper.get_dom_attribute("viewBox") for paper in papers(page)] == boxes
    paper = papers(page)[0]
    ActionChains(page).move_to_element(paper).click_and_hold().move_by_offset(100, 40).release().perform()
    pixels = paper.rect["width"] / float(paper.get_dom_attribute("data-width"))
    milliseconds, rest = page.find_element("css selector", ".caliper text").text.split(" ms", 1)
    assert float(milliseconds) == pytest.approx(1000 * 100 / pixels / 25, rel=0.02)
    assert float(rest.split()[-2]) == pytest.approx(40 / pixels / 10, abs=0.02)


@pytest.mark.parametrize("kind", ["WFDB", "CSV", "PNG"])
def test_download(page, tmp_path, kind):
    generate(page)
    name = "ecgtwin.png" if kind == "PNG" else f"ecgtwin_{kind.lower()}.zip"
    click(page, f"#get-{kind}")
    path = page.downloads / name
    until(path.is_file, name)
    if kind == "PNG":
        with Image.open(path) as picture:
            assert picture.format == "PNG"
        return
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    if kind == "WFDB":
        record = wfdb.rdrecord(str(tmp_path / "twin_04"))
        assert (record.sig_len, tuple(record.sig_name)) == (1024, MODEL_LEADS)
        assert any("not for diagnosis" in comment for comment in record.comments)
    else:
        assert read_record(tmp_path / "twin_04.csv").sampling_rate == pytest.approx(102.4, abs=0.01)


def test_an_upload_becomes_the_reference(page, tmp_path):
    header = write_wfdb(sample_record(bpm=84, age=47, sex="M", report="sinus rhythm"), tmp_path, "mine")
    upload(page, header, header.with_suffix(".dat"))
    caption = until(lambda: (text := all_of(page, ".sheet .caption")[0].text) and "mine.hea" in text and text, "upload")
    assert "XQRS 84 bpm" in caption and "mine.hea" in status(page, "mine.hea")
    generate(page)
    assert "47 years · male" in all_of(page, ".sheet .caption")[1].text


def test_a_bad_upload_shows_one_line_and_the_page_goes_on(page, tmp_path):
    record = sample_record()
    record.signal[:, record.leads.index("V2")] = 0
    np.savez(tmp_path / "flat.npz", signal=record.signal, sampling_rate=500.0, leads=record.leads)
    upload(page, tmp_path / "flat.npz")
    line = status(page, "flat.npz")
    assert line.startswith("flat.npz: lead V2 is flat") and "\n" not in line
    assert all_of(page, "#status .error") and len(papers(page)) == 1
    generate(page)
    assert not all_of(page, "#status .error") and len(papers(page)) == 2


def test_nothing_is_kept(page, served):
    """Last: it ends the server."""
    _, temporary, process = served
    generate(page)

    def files():
        return [path for path in temporary.rglob("*") if path.is_file()]

    click(page, "#get-CSV")
    until(files, "file to download")
    page.get("about:blank")  # an open page delays the end by some seconds
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    assert files() == [] and not list(temporary.glob("ecgtwin-explorer-*"))
