"""The explorer in a real browser: fronts, filters, clicks, downloads, and that nothing leaves the page."""

import io
import json
import shutil
import time
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest

from explorer_tables import HOSTILE, measured, members, page, with_paths
from ipa_energy.analysis.aggregate import configurations_table
from ipa_energy.ipa.front import pareto_mask, significant

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with chromedriver on this machine")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
THREE = ["pas", "latency_p99_s", "usd_per_1000_requests"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size=1280,900", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The page of the made-up study, its configurations and its folder."""
    folder = tmp_path_factory.mktemp("study with a space & more")
    measurements = with_paths(measured(), folder)
    configurations = configurations_table(measurements, 0.95, [])
    path, _ = page(folder, measurements, configurations, members(configurations))
    return path, configurations


@pytest.fixture
def explorer(browser, study):
    """The study's page, in its first state."""
    open_page(browser, study[0])
    return browser


def until(condition, what, seconds=10.0):
    """What ``condition`` returns, once that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


def open_page(browser, path, fragment=""):
    """Open the page, or where it is open, go back to the state of the fragment."""
    if browser.current_url.partition("#")[0] == path.as_uri():
        browser.execute_script(
            "location.hash = arguments[0] + '&stamp=' + performance.now()", fragment or "x=latency_p99_s"
        )
        until(lambda: "stamp=" not in browser.current_url, "the address to be taken")
    else:
        browser.get(f"{path.as_uri()}{'#' if fragment else ''}{fragment}")
        until(lambda: browser.execute_script("return document.readyState") == "complete", "the page")


def settled(browser):
    """Let the page draw what was changed."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def click(browser, name):
    browser.find_element(By.ID, name).click()
    settled(browser)


def write(browser, name, text):
    field = browser.find_element(By.ID, name)
    field.clear()
    field.send_keys(text)
    settled(browser)


def text_of(browser, name):
    return browser.find_element(By.ID, name).text


def fronts(browser):
    """Configuration and status of every filtered row, as the page has computed them."""
    script = "return [...explorer.view.status].map(([i, code]) => [explorer.data.configuration[i], code])"
    names = ("both", "only", "tie", "without", "dominated", "incomplete", "unusable")
    return {configuration: names[code] for configuration, code in browser.execute_script(script)}


def expected_fronts(rows, energy="net_j_per_request"):
    """The same by :func:`pareto_mask`."""
    rows = rows.assign(pas=significant(rows["pas"].to_numpy(dtype=float)))
    known = rows[THREE].notna().all(axis=1)
    complete = rows[known & rows[energy].notna()]
    points = complete[[*THREE, energy]].to_numpy(dtype=float) * [-1, 1, 1, 1]
    names = {(True, True): "both", (False, True): "only", (True, False): "tie", (False, False): "dominated"}
    found = dict.fromkeys(rows["configuration"], "unusable") | dict.fromkeys(rows[known]["configuration"], "incomplete")
    masks = zip(pareto_mask(points[:, :3]), pareto_mask(points), strict=True)
    return found | {c: names[bool(a), bool(b)] for c, (a, b) in zip(complete["configuration"], masks, strict=True)}


def leaks(browser):
    """Requests to anywhere but files and the page's own data, and errors of the console."""
    logs = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [log["params"]["request"]["url"] for log in logs if log["method"] == "Network.requestWillBeSent"]
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:", "chrome:"))] + errors


def test_the_page_opens_from_a_file_and_nothing_leaves_it(explorer, study):
    assert "of 35 configurations optimal without energy" in text_of(explorer, "summary")
    for name in ("colour", "size", "x", "y"):  # every kind of drawing that the page has
        for at in range(5):
            Select(explorer.find_element(By.ID, name)).select_by_index(at)
            settled(explorer)
    click(explorer, "ci")
    click(explorer, "view-table")
    click(explorer, "view-plot")
    titles = [b.get_attribute("data-title") for b in explorer.find_elements(By.CSS_SELECTOR, ".modebar-btn")]
    assert titles
    assert not any("hare" in title or "loud" in title for title in titles)
    assert leaks(explorer) == []


@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["random", "ties", "all optimal", "many at the largest", "equal"])
def test_fronts_of_the_page_equal_the_exact_ones(explorer, d, kind):
    rng = np.random.default_rng(d)
    n = 1500
    points = rng.random((n, d))
    if kind == "ties":
        points = np.floor(points * 6)
    elif kind == "all optimal":
        points = points / points.sum(axis=1, keepdims=True)
    elif kind == "many at the largest":
        points = np.minimum(points, 0.3)
    elif kind == "equal":
        points = np.repeat(points[:3], n // 3, axis=0)
    found = explorer.execute_script(
        "return [...explorer.paretoMask(arguments[0].map((c) => Float64Array.from(c)), arguments[1])]",
        points.T.tolist(),
        n,
    )
    assert np.array_equal(np.array(found, dtype=bool), pareto_mask(points))


def test_both_fronts_of_a_study_and_their_counts_are_the_exact_ones(explorer, study):
    rows = study[1][study[1]["workload"] == "saturated"]
    for energy in ("net", "gross"):
        click(explorer, f"energy-{energy}")
        expected = expected_fronts(rows, f"{energy}_j_per_request")
        assert fronts(explorer) == expected
        kinds = list(expected.values())
        without, also = kinds.count("both") + kinds.count("tie"), kinds.count("both") + kinds.count("only")
        compared = len(kinds) - kinds.count("incomplete") - kinds.count("unusable")
        assert text_of(explorer, "summary").startswith(
            f"{without} of {compared} configurations optimal without energy, {also} with {energy} energy, "
            f"{kinds.count('only')} only because of {energy} energy."
        )
    assert kinds.count("only") > 0


def test_filters_and_an_input_leave_the_rows_that_meet_them_and_fronts_of_those(explorer, study):
    rows = study[1][study[1]["workload"] == "saturated"]
    label = "//fieldset[@data-knob='classify.variant']//label[normalize-space()='resnet34']/input"
    explorer.find_element(By.XPATH, label).click()
    settled(explorer)
    rows = rows[rows["classify.variant"] != "resnet34"]
    assert fronts(explorer) == expected_fronts(rows)
    Select(explorer.find_element(By.ID, "preset")).select_by_index(1)
    settled(explorer)
    rows = rows[(rows["latency_p99_s"] <= 0.2) & (rows["throughput_rps"] >= 2)]
    assert 0 < len(rows) < 24
    assert fronts(explorer) == expected_fronts(rows)
    assert f"Filters leave {len(rows)} of 36" in text_of(explorer, "summary")
    write(explorer, "rate", "1e9")
    assert text_of(explorer, "summary") == "None of the 36 configurations passes the filters."
    click(explorer, "reset")
    assert len(fronts(explorer)) == 36


def test_energy_that_is_not_known_is_listed_and_in_no_front_and_never_plotted(explorer, study):
    bare = study[1].loc[study[1]["n_net"] == 0, "configuration"].iloc[0]
    assert fronts(explorer)[bare] == "incomplete"
    plotted = "return plot.data.flatMap((t) => (t.customdata || []).map((i) => explorer.data.configuration[i]))"
    assert bare not in explorer.execute_script(plotted)
    assert "1 not drawn: no figure of net energy" in text_of(explorer, "note")
    numbers = explorer.execute_script("return plot.data.flatMap((t) => [...t.x, ...t.y])")
    assert len(numbers) == 70
    assert all(isinstance(number, float | int) for number in numbers)
    click(explorer, "energy-gross")
    assert fronts(explorer)[bare] != "incomplete"


def test_estimated_energy_is_called_so_wherever_it_stands(explorer):
    Select(explorer.find_element(By.ID, "cell-workload")).select_by_visible_text("rate")
    settled(explorer)
    assert "with estimated net energy" in text_of(explorer, "summary")
    assert "estimated net energy (J / request)" in text_of(explorer, "plot")
    assert "All energy here is estimated" in text_of(explorer, "warning")
    assert "Random weights ran" in text_of(explorer, "warning")
    explorer.execute_script("explorer.choose([...explorer.view.rows][1])")
    settled(explorer)
    panel = explorer.find_element(By.ID, "panel")
    rows = [row.text for row in panel.find_elements(By.CSS_SELECTOR, "tr") if "energy" in row.text]
    assert rows
    assert all("estimated" in row for row in rows[:2])
    energies = [cell.text for cell in panel.find_elements(By.CSS_SELECTOR, ".wide td") if "estimated" in cell.text]
    assert len(energies) == 2 * 3  # gross, net and power of two repetitions
    click(explorer, "view-table")
    heads = [head.text for head in explorer.find_elements(By.CSS_SELECTOR, "#table thead th") if "energy" in head.text]
    assert heads
    assert all("estimated" in head for head in heads)


def test_a_click_on_a_point_shows_its_figures_and_its_records(explorer, study):
    path, configurations = study
    rows = configurations[(configurations["workload"] == "saturated") & (configurations["n_net"] > 0)]
    row = rows.sort_values("latency_p99_s").iloc[0]  # the leftmost point has none above it
    x, y = explorer.execute_script(
        "const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();"
        "return [box.left + xaxis._offset + xaxis.d2p(arguments[0]),"
        " box.top + yaxis._offset + yaxis.d2p(arguments[1])]",
        row["latency_p99_s"],
        row["net_j_per_request"],
    )
    mouse = webdriver.ActionChains(explorer).w3c_actions
    mouse.pointer_action.move_to_location(round(x), round(y))
    mouse.perform()
    until(lambda: row["configuration"] in text_of(explorer, "tip"), "the tool tip")
    mouse.pointer_action.click()
    mouse.perform()
    (heading,) = until(lambda: explorer.find_elements(By.CSS_SELECTOR, "#panel h2"), "the panel")
    assert heading.text == row["configuration"]
    text = text_of(explorer, "panel")
    assert f"{row['net_j_per_request']:.4g}"[:5] in text
    assert "12.5 %" in text  # only because of energy, of the membership table
    first, second = explorer.find_elements(By.CSS_SELECTOR, ".wide tbody tr")
    link = first.find_element(By.TAG_NAME, "a")
    record = path.parent / "records" / "saturated" / row["configuration"] / "block1.json"
    assert link.get_attribute("href") == record.as_uri().replace("+", quote("+"))
    assert not second.find_elements(By.TAG_NAME, "a")
    assert "/elsewhere/records/" in second.text
    webdriver.ActionChains(explorer).send_keys(Keys.ESCAPE).perform()
    settled(explorer)
    assert not explorer.find_element(By.ID, "panel").is_displayed()


def test_the_download_holds_the_filtered_rows_with_all_figures(explorer, study, tmp_path):
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    explorer.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    write(explorer, "sla", "0.2")
    click(explorer, "download")
    file = tmp_path / "explorer.csv"
    until(file.exists, "the download")
    got = pd.read_csv(io.StringIO(file.read_text())).set_index("configuration")
    rows = study[1]
    rows = rows[(rows["workload"] == "saturated") & (rows["latency_p99_s"] <= 0.2)].set_index("configuration")
    assert len(got) == len(rows) < 36
    columns = ["latency_p99_s", "net_j_per_request", "net_j_per_request_lo", "gross_j_per_request_hi", "mean_w", "n"]
    for column in columns:
        expected = rows.loc[got.index, column].astype(float)
        assert np.array_equal(got[column].to_numpy(dtype=float), expected.to_numpy(), equal_nan=True), column
    expected = expected_fronts(rows.reset_index())
    assert {c for c in got.index if got.loc[c, "front_with"] == 1} == {
        c for c, kind in expected.items() if kind in ("both", "only")
    }
    assert set(got["evidence"]) == {"measured"}
    assert set(got["p_only_with"]) == {0.125}


def test_the_table_sorts_by_the_keyboard_and_opens_the_panel(explorer, study):
    click(explorer, "view-table")

    def column(at):
        return [row.find_elements(By.CSS_SELECTOR, "th, td")[at].text for row in body_rows()]

    def body_rows():
        return explorer.find_elements(By.CSS_SELECTOR, "#table tbody tr")

    heads = [head.text for head in explorer.find_elements(By.CSS_SELECTOR, "#table thead th")]
    at = heads.index("p99 latency (s)")
    for direction in ("ascending", "descending"):
        head = explorer.find_elements(By.CSS_SELECTOR, "#table thead th button")[at]
        head.send_keys(Keys.ENTER)
        settled(explorer)
        heads = explorer.find_elements(By.CSS_SELECTOR, "#table thead th")
        assert heads[at].get_attribute("aria-sort") == direction
        known = [float(cell) for cell in column(at) if cell != "\u2013"]
        assert known == sorted(known, reverse=direction == "descending")
    name = body_rows()[2].find_element(By.TAG_NAME, "button")
    chosen = name.text
    name.send_keys(Keys.ENTER)
    settled(explorer)
    assert explorer.find_element(By.CSS_SELECTOR, "#panel h2").text == chosen


def test_every_control_has_a_name(explorer):
    nameless = explorer.execute_script(
        "return [...document.querySelectorAll('#app input, #app select, #cells select')]"
        ".filter((e) => !e.labels.length || !e.labels[0].textContent.trim()).map((e) => e.id)"
    )
    assert nameless == []


def test_the_address_restores_the_view(browser, explorer, study):
    Select(explorer.find_element(By.ID, "cell-workload")).select_by_visible_text("rate")
    Select(explorer.find_element(By.ID, "y")).select_by_value("pas")
    Select(explorer.find_element(By.ID, "colour")).select_by_value("detect.variant")
    settled(explorer)
    click(explorer, "energy-gross")
    click(explorer, "ylog")
    click(explorer, "ci")
    click(explorer, "show-dominated")
    write(explorer, "sla", "0.3")
    explorer.find_element(By.XPATH, "//fieldset[@data-knob='detect.batch']//label[normalize-space()='4']/input").click()
    settled(explorer)
    explorer.execute_script("explorer.choose(explorer.view.rows[2])")
    settled(explorer)
    settled(explorer)
    address = explorer.current_url
    seen = [text_of(explorer, name) for name in ("summary", "cells", "legend", "colour-legend", "panel", "plot")]
    state = explorer.execute_script("return explorer.state")
    browser.get("about:blank")
    browser.get(address)
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "#panel h2"), "the panel")
    assert browser.execute_script("return explorer.state") == state
    assert [text_of(browser, name) for name in ("summary", "cells", "legend", "colour-legend", "panel", "plot")] == seen


def test_a_view_shared_as_a_table_can_be_plotted_and_clicked(browser, study):
    browser.get("about:blank")
    open_page(browser, study[0], "view=table")
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "#table tbody tr"), "the table")
    click(browser, "view-plot")
    assert browser.execute_script("return typeof plot.on") == "function"
    browser.execute_script("plot.emit('plotly_click', {points: [{customdata: explorer.view.rows[1]}]})")
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "#panel h2"), "the panel")


def test_an_address_of_nonsense_gives_the_first_view(explorer, study):
    nonsense = "workload=none&energy=x&x=none&y=nope&colour=%00&sla=-1&rate=NaN&not.device=%7B&hide=z&at=gone&sort=no"
    open_page(explorer, study[0], nonsense)
    state = explorer.execute_script("return explorer.state")
    assert (state["x"], state["y"], state["sla"], state["rate"], state["hide"]) == (
        "latency_p99_s",
        "energy",
        None,
        None,
        [],
    )
    assert len(fronts(explorer)) == 36
    assert not explorer.find_element(By.ID, "panel").is_displayed()


def test_intervals_sizes_and_colours_are_those_of_the_table(explorer, study):
    click(explorer, "ci")
    Select(explorer.find_element(By.ID, "colour")).select_by_value("throughput_rps")
    Select(explorer.find_element(By.ID, "size")).select_by_value("classify.batch")
    settled(explorer)
    rows = study[1][study[1]["workload"] == "saturated"].reset_index(drop=True).set_index("configuration")
    traces = explorer.execute_script(
        "return plot.data.filter((t) => t.customdata).map((t) => ({x: t.x, up: t.error_y.array, size: t.marker.size,"
        " colour: t.marker.color, id: t.customdata.map((i) => explorer.data.configuration[i])}))"
    )
    for trace in traces:
        for k, configuration in enumerate(trace["id"]):
            row = rows.loc[configuration]
            if row["n_net"] > 1:
                assert trace["up"][k] == pytest.approx(row["net_j_per_request_hi"] - row["net_j_per_request"])
            assert trace["colour"][k] == pytest.approx(row["throughput_rps"])
            assert trace["size"][k] == (6 if row["classify.batch"] == 1 else 26)
    assert "Size: classify.batch, 1 (smallest) to 4 (largest)." in text_of(explorer, "note")


def hostile(measurements):
    """The table with markup in the names of one configuration, its variant, its workload, reasons and paths."""
    one = measurements["configuration"] == measurements["configuration"].iloc[-1]
    changed = measurements.astype(dict.fromkeys(["configuration", "detect.variant", "reason", "flags"], "object"))
    changed.loc[one, "configuration"] = HOSTILE
    changed.loc[one, ["detect.variant", "reason", "flags"]] = HOSTILE
    changed["workload"] = changed["workload"].str.replace("rate", HOSTILE)
    changed = changed.rename(columns={name: name.replace("classify", "<img src=x>") for name in changed.columns})
    return changed.assign(path=f"javascript:alert(1)//{HOSTILE}")


def test_hostile_names_stay_text(browser, tmp_path):
    measurements = hostile(measured())
    path, _ = page(tmp_path, measurements, title=HOSTILE, limitations=[HOSTILE], inputs={HOSTILE: {"rate_rps": 1}})
    open_page(browser, path)
    assert browser.title == HOSTILE
    assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE
    Select(browser.find_element(By.ID, "cell-workload")).select_by_visible_text(HOSTILE)
    Select(browser.find_element(By.ID, "colour")).select_by_value("detect.variant")
    settled(browser)
    browser.execute_script("explorer.choose(explorer.data.configuration.indexOf(arguments[0]))", HOSTILE)
    settled(browser)
    assert browser.find_element(By.CSS_SELECTOR, "#panel h2").text == HOSTILE
    Select(browser.find_element(By.ID, "x")).select_by_index(5)  # a knob whose stage is named by markup
    settled(browser)
    assert "<img src=x>" in text_of(browser, "plot")
    click(browser, "view-table")
    found = "return document.querySelectorAll('img, b b, #app script, a[href^=javascript]').length"
    assert browser.execute_script(found) == 0
    assert browser.title == HOSTILE
    assert leaks(browser) == []


def test_markup_that_got_into_the_page_would_neither_run_nor_load(explorer):
    explorer.execute_async_script(
        "const box = document.createElement('div'); document.body.append(box);"
        "window.refused = []; const note = (event) => window.refused.push(event.effectiveDirective);"
        "document.addEventListener('securitypolicyviolation', note);"
        "box.innerHTML = '<img src=http://example.invalid/x.png><img src=x onerror=window.pwned=1>';"
        "setTimeout(() => { box.remove(); arguments[0](); }, 300)"
    )
    assert explorer.execute_script("return window.pwned") is None
    assert "img-src" in explorer.execute_script("return window.refused")
    leaks(explorer)  # reads the log of what was refused, so that it counts for no other test


def test_a_page_without_anything_usable_says_why(browser, tmp_path):
    failed = measured(blocks=1, lost=True)
    path, _ = page(tmp_path, failed)
    open_page(browser, path)
    assert "None of the 72 configurations has a usable measurement (72 failed)" in text_of(browser, "warning")
    assert "out of memory" in text_of(browser, "warning")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")) == 36
    click(browser, "view-plot")
    assert "No figure of p99 latency (s) or cost (USD / 1000 requests) here." in text_of(browser, "plot")
    assert leaks(browser) == []


def test_a_page_without_any_row_says_why(browser, tmp_path):
    measurements = measured(blocks=1).iloc[:0]
    path, _ = page(tmp_path, measurements)
    open_page(browser, path)
    assert "There is no configuration to show" in text_of(browser, "nothing")
    assert not browser.find_element(By.ID, "app").is_displayed()
    assert leaks(browser) == []


def test_more_points_than_are_drawn_in_svg_are_handled(browser, tmp_path):
    measurements = measured(blocks=1)
    one = configurations_table(measurements, 0.95, [])
    one = one[(one["workload"] == "saturated") & (one["n_net"] > 0)]
    rng = np.random.default_rng(0)
    many = one.loc[rng.choice(one.index, 6000)].reset_index(drop=True)
    many["configuration"] = [f"c{i}" for i in range(len(many))]
    for column in (*THREE, "net_j_per_request"):
        many[column] = rng.lognormal(0, 1, len(many)) if column != "pas" else rng.random(len(many))
    path, _ = page(tmp_path, measurements.iloc[:0], many)
    open_page(browser, path)
    assert fronts(browser) == expected_fronts(many)
    assert sum(browser.execute_script("return plot.data.map((t) => t.x.length)")) == 6000
    click(browser, "view-table")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")) == 100
    assert "Rows 1 to 100 of 6000" in text_of(browser, "pager")
    assert leaks(browser) == []
