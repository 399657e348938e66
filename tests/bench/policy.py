"""A site with many rules, persons and bans: policy.py DIRECTORY BANS PERSONS RULES"""

import pathlib
import sys

where = pathlib.Path(sys.argv[1])
bans, persons, rules = (int(number) for number in sys.argv[2:5])
lists = where / "bans.d"
lists.mkdir()

config = [f'[audit]\nrecorder = "off"\n[bans]\ndir = "{lists}"\n[policy]\nparallel_person = 1000\n']
for number in range(rules):
    # A few rules ask for the benchmark's VO, and none of them applies: its groups are others.
    vo = "bench" if number % 100 == 0 else f"vo{number % 50}.example.org"
    config.append(
        f'[[rule]]\nid = "rule-{number}"\nvo = ["{vo}"]\ngroup = ["/{vo}/group{number}/*"]\n'
        f'image = ["/cvmfs/unpacked.example.org/{number}"]\nnetwork = "none"\n'
    )
for number in range(persons):
    config.append(
        f'[[person]]\nid = "person-{number}"\nnames = ["/DC=org/DC=example/CN=Person {number}", '
        f'"https://iam.example.org/ 5f2c11d0-{number:06}", "person{number}@example.org"]\n'
    )
(where / "bailey.toml").write_text("".join(config))

quarter = bans // 4
ours = (
    f'[[ban]]\nuser = "/DC=org/DC=example/CN=Banned {number}"\nreason = "a test"\nticket = "T{number}"\n'
    for number in range(quarter)
)
(lists / "site.toml").write_text("".join(ours))
lcas = (f'"/DC=org/DC=lcas/CN=Banned {number}"\n' for number in range(quarter))
(lists / "ban_users.db").write_text("".join(lcas))
lines = (f"/DC=org/DC=lines/CN=Banned, {number}\n" for number in range(quarter))
(lists / "lines.dn").write_text("".join(lines))
condor = (
    f"SCITOKENS /https:\\/\\/iam.example.org\\/,banned-{number:06}/ x@banned.htcondor.org\n" for number in range(quarter)
)
(lists / "condor.conf").write_text("".join(condor))
