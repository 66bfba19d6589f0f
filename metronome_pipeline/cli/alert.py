"""``metronome-pipeline alert``: try out how people are told of problems.

Here: the command and its table. Not here: when anybody is told (``automation/alerts.py``), and the words (``alerts/``).
"""

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say, show_table


@click.group("alert", short_help="Alerts: try out the channels.")
def command() -> None:
    """People are told of problems by the sensor `alerts`, through ALERT_WEBHOOK_URL, ALERT_EMAIL_TO, or both."""


@command.command("test", epilog=example("alert test"))
def test() -> None:
    """Send one message of each kind to every channel that is set, and say which were taken.

    Each says that it is a test. Nothing is written down, so what is really wrong is still told. Exit status 1 when a
    channel did not take a message.
    """
    from datetime import UTC, datetime  # noqa: PLC0415

    from metronome_pipeline.alerts.channels import NotTaken, channels_of  # noqa: PLC0415
    from metronome_pipeline.alerts.messages import place_of  # noqa: PLC0415
    from metronome_pipeline.alerts.samples import sample_messages  # noqa: PLC0415
    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    settings = Settings.from_environment()
    channels = channels_of(settings)
    if not channels:
        raise WrongUse(
            "No channel is set: set ALERT_WEBHOOK_URL, or ALERT_EMAIL_TO, ALERT_EMAIL_FROM and SMTP_URL, in the "
            "environment or in .env."
        )
    rows: list[tuple[str, str, str]] = []
    failed = 0
    for channel in channels:
        say(f"Sending to {channel.name} …")
        for kind, message in sample_messages(place_of(settings), datetime.now(UTC)).items():
            try:
                channel.send(message)
                rows.append((channel.name, kind, "taken"))
            except NotTaken as error:
                failed += 1
                rows.append((channel.name, kind, str(error)))
                if error.down:
                    break
    show_table("Alerts", ("channel", "kind", ""), rows)
    if failed:
        raise Failed("Not every message was taken: see the table.")
