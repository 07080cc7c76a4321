"""`ring3 stop`: the power button, or the plug."""

import click

from ring3.cli.names import CONTEXT, name_argument, running
from ring3.errors import HostError

TIMEOUT_S = 60.0


@click.command(context_settings=CONTEXT)
@name_argument
@click.option("--force", is_flag=True, help="Pull the plug: the guest is not asked.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=TIMEOUT_S, show_default=True,
              metavar="S", help="How long the guest may take to shut down.")
def command(name: str, force: bool, timeout_s: float) -> None:
    """Press a machine's power button and wait until it is off."""
    with running(name) as vm:
        if force:
            vm.stop()
            return
        if vm.paused:
            vm.resume()                 # asleep, it could not hear the button
        vm.power_off()
        if not vm.client.wait_for_end(timeout_s):
            raise HostError(f"{name} is not off after {timeout_s:g} s: ring3 stop {name} --force")
