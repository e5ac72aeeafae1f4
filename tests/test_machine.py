import subprocess
import sys

from byteloom.machine import machine_facts, usable_cores


def test_facts_name_the_machine_and_the_versions():
    facts = machine_facts("a device")
    assert facts["device"] == "a device"
    assert facts["cores"] == usable_cores() >= 1
    assert facts["cpu"] and facts["platform"]
    assert facts["python"] == sys.version.split()[0]
    assert facts["numpy"] != "not installed"


def test_facts_are_had_without_torch():
    code = "import sys, byteloom.machine as m; m.machine_facts(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
