"""Dagster's UI as the person uses it who runs this project: what they read and click, on two weeks of flights.

One story, told in order on one set of services: nothing is billed, a range is backfilled, usage comes late and an event
is refused, the schedule is asked for its next tick, both sides are compared. Run by ``make browser-test`` alone; its
screenshots are README's. Waiting is Playwright's own, for what the page shall show.
"""

import re
from datetime import UTC, datetime

from playwright.sync_api import Locator, Page, expect

from metronome_pipeline_tests.browser.desk import MILES, UNITED, Desk
from metronome_pipeline_tests.browser.screenshots import Shoot

_AUTOMATION = "/locations/__repository__@metronome_pipeline"
_JOBS = "/locations/metronome_pipeline/jobs"
# The daemon looks for backfills every half minute.
_A_RUN = 180_000


def launch(page: Page, partitions: str | None = None) -> None:
    """Opens the dialog of what the page can materialize, chooses partitions where asked for, and launches."""
    page.get_by_role("button", name="Materialize").first.click()
    if partitions is None:
        return
    chosen = page.get_by_placeholder("No matching partitions")
    chosen.fill(partitions)
    chosen.press("Enter")


def await_backfill(page: Page) -> None:
    """Follows the link that appears once Dagster has taken the request, and waits for the end."""
    page.get_by_role("link", name="View", exact=True).click()
    expect(page).to_have_url(re.compile("/runs/b/"))
    expect(page.get_by_text("100% completed")).to_be_visible(timeout=_A_RUN)
    # The status of the backfill, and the head of the column that counts its partitions.
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(2, timeout=_A_RUN)


def open_picture(page: Page) -> Locator:
    """Clicks on the picture of a materialization; the image, once it is drawn."""
    page.get_by_text("[Show Markdown]").first.click()
    image = page.get_by_role("dialog").locator("img")
    expect(image).to_be_visible()
    expect(image).to_have_attribute("src", re.compile("^data:image/svg"))
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 720, "the browser draws it"
    return image


def row(page: Page, name: str) -> Locator:
    """A row of a materialization's or check's metadata."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True)).first


def test_the_graph_shows_what_becomes_of_what(page: Page, shoot: Shoot) -> None:
    page.set_viewport_size({"width": 2000, "height": 2100})
    page.goto("/asset-groups")
    for group in ("metronome", "solvimon"):
        page.locator("svg").get_by_text(group, exact=True).last.click()
    expect(page).to_have_url(re.compile("expanded=.*metronome.*solvimon"))
    page.reload()
    for asset in ("billable_metrics", "usage_events", "reconciliation", "billing_health"):
        expect(page.locator("svg").get_by_text(asset, exact=True).first).to_be_in_viewport()
    expect(page.get_by_text("Materialized", exact=True)).to_have_count(6)
    expect(page.get_by_text("Loading")).to_have_count(0)
    shoot("asset-graph", "svg foreignObject")


def test_a_range_is_backfilled_by_clicking(page: Page, desk: Desk, shoot: Shoot) -> None:
    page.goto(f"{_JOBS}/ingest_usage/partitions")
    expect(page.get_by_text("Missing partitions")).to_be_visible()
    launch(page, f"[{desk.key(3)}...{desk.key(2, 23)}]")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("48 partitions")).to_be_visible()
    shoot("backfill-launch")
    dialog.get_by_role("button", name="Launch backfill").click()
    await_backfill(page)
    shoot("backfill")
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_text("workflow: usage")).to_have_count(1)


def test_a_tick_of_the_schedule_says_what_it_requests_and_is_launched(page: Page, desk: Desk, shoot: Shoot) -> None:
    desk.fly(desk.hour(3, 15), 2_500)
    desk.fly(desk.hour(2, 16), 1_000)
    desk.refuse(desk.hour(1, 15))
    page.goto(f"{_AUTOMATION}/schedules/hourly_usage")
    expect(page.get_by_text("corrects what changed")).to_be_visible()
    expect(page.get_by_text(f"At {desk.minute} minutes past the hour")).to_be_visible()
    page.get_by_role("button", name="Preview tick result").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=re.compile("[AP]M UTC")).click()
    page.get_by_role("menuitem", name=desk.last_tick(datetime.now(UTC)), exact=True).click()
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text("Requested runs (2)")).to_be_visible()
    shoot("schedule")
    dialog.get_by_role("button", name="Launch all").click()
    expect(page.get_by_text("hourly_usage")).to_have_count(2)
    expect(page.get_by_text("Success", exact=True)).to_have_count(2, timeout=_A_RUN)


def test_a_materialization_has_numbers_a_preview_and_a_picture_with_corrections_marked(
    page: Page, desk: Desk, shoot: Shoot
) -> None:
    newest = desk.newest_hour(datetime.now(UTC))
    page.goto(f"/assets/solvimon/usage_events?view=partitions&partition={newest}")
    expect(page.get_by_text(newest).first).to_be_visible()
    expect(row(page, "events_planned")).to_be_visible()
    expect(row(page, "requests")).to_be_visible()
    expect(row(page, "preview")).to_contain_text("customer")
    image = open_picture(page)
    words = image.evaluate("image => atob(image.src.split(',')[1])")
    assert all(word in words for word in (MILES, "Scheduled departures", "usage by hour", "corrected", "open"))
    assert 'stroke="#d97706"' in words, "the corrected hours are marked"
    assert 'stroke="#7c3aed"' in words, "so is the hour that waits"
    shoot("materialization")


def test_a_red_check_says_who_what_and_why(page: Page, desk: Desk, shoot: Shoot) -> None:
    page.goto("/assets/solvimon/usage_events?view=checks&checkDetail=nothing_in_quarantine")
    expect(page.get_by_text("mend the cause, then release them")).to_be_in_viewport(ratio=1)
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    found = row(page, "list")
    for text in (UNITED, MILES, f"{desk.hour(1, 15):%Y-%m-%d}", "INVALID_FIELD", "is refused in this sandbox"):
        expect(found).to_contain_text(text)
    expect(found).to_be_in_viewport(ratio=1)
    shoot("red-check")
    row(page, "references").get_by_text("[Show JSON]").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"{desk.hour(1, 15):_%Y%m%dT150000Z_}")


def test_a_sensor_says_what_it_looks_for_and_what_it_found(page: Page, shoot: Shoot) -> None:
    page.goto(f"{_AUTOMATION}/sensors/account_changes")
    expect(page.get_by_text("What an import refused is left alone until it changes.")).to_be_in_viewport(ratio=1)
    expect(page.get_by_text("0 runs requested").first).to_be_visible()
    expect(page.get_by_text("import_everything")).to_be_visible()
    shoot("sensor")


def test_both_sides_are_compared_without_being_asked_whether_one_is_sure(page: Page, desk: Desk, shoot: Shoot) -> None:
    page.goto(f"{_JOBS}/reconcile/partitions")
    launch(page, f"[{desk.day(14)}...{desk.day(2)}]")
    page.get_by_role("dialog").get_by_role("button", name="Launch").click()
    await_backfill(page)
    page.goto(f"/assets/solvimon/reconciliation?view=partitions&partition={desk.day(2)}")
    expect(row(page, "unexplained")).to_contain_text("0")
    expect(row(page, "totals")).to_contain_text(MILES)
    open_picture(page)
    shoot("reconciliation")


def test_billing_health_is_the_last_weeks_at_a_glance(page: Page, shoot: Shoot) -> None:
    page.goto("/assets/solvimon/billing_health")
    expect(page.get_by_text("The last 35 UTC days at a glance")).to_be_visible()
    launch(page)
    expect(page.get_by_text("Launched run")).to_be_visible()
    page.goto("/assets/solvimon/billing_health?view=events")
    expect(row(page, "days_that_differ")).to_contain_text("1", timeout=_A_RUN)
    expect(row(page, "open")).to_contain_text("1")
    expect(row(page, "by_day")).to_contain_text("reconciled")
    shoot("billing-health-table")
    words = open_picture(page).evaluate("image => atob(image.src.split(',')[1])")
    assert all(word in words for word in (MILES, "differs", "corrected", "open", "late"))
    shoot("billing-health")
