//! Who it is where a pilot that does not know bailey calls it as a container runtime: job ads and environments of pilots, end to
//! end into the record.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::policy::{Node, entry};
use support::{BAILEY, World, code, image, text};

const TOKEN: &str = "AuthTokenGroups = \"/cms,/cms/de\"\nAuthTokenId = \"j-1\"\n\
    AuthTokenIssuer = \"https://cms-auth.example/\"\nAuthTokenSubject = \"5b1d\"\nClusterId = 12\n\
    GlobalJobId = \"ap.example#12.0#1700000000\"\nUser = \"zoe@ap.example\"\n";
const PROXY: &str = "GlobalJobId = \"ap.example#13.0#1700000001\"\nUser = \"anna@ap.example\"\n\
    x509UserProxyFQAN = \"/DC=org/CN=Anna,/atlas/Role=production/Capability=NULL,/atlas/Role=NULL/Capability=NULL\"\n\
    x509UserProxyFirstFQAN = \"/atlas/Role=production/Capability=NULL\"\nx509UserProxyVOName = \"atlas\"\n\
    x509userproxysubject = \"/DC=org/CN=Anna\"\n";

/// An ad of its own directory, as a starter leaves it.
fn ad(world: &World, name: &str, content: &str) -> PathBuf {
    world.file(&format!("{name}/.job.ad"), content)
}

/// `bailey apptainer OPTIONS IMAGE COMMAND`
fn apptainer(world: &World, options: &[&str], command: &[&str]) -> Command {
    let mut apptainer = world.command(BAILEY);
    apptainer.arg("apptainer").args(options).arg(image()).args(command);
    apptainer
}

fn contained(world: &World) -> Command {
    apptainer(world, &["exec", "--containall"], &["/bin/true"])
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// It ran; its launch record.
fn launched(world: &World, output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", text(&output.stderr));
    let launch = world.records_of("payload-launch").pop().unwrap();
    let end = world.records_of("payload-end").pop().unwrap();
    assert_eq!(end["grid"]["role"], launch["grid"]["role"]);
    assert_eq!(end["event"]["id"], launch["event"]["id"]);
    launch
}

fn of_job(world: &World, ad: &Path, more: &[(&str, &str)]) -> Value {
    let mut command = contained(world);
    command.env("_CONDOR_JOB_AD", ad).envs(more.iter().copied());
    launched(world, &run(&mut command))
}

/// It did not run, a line says why, and a record too.
fn refused(world: &World, output: &Output, words: &[&str]) -> Value {
    let said = text(&output.stderr);
    assert_eq!(code(output), 255, "{said}");
    assert!(said.starts_with("FATAL:   bailey[120]: "), "{said}");
    let deny = world.records_of("payload-deny").pop().unwrap();
    assert_eq!(deny["error"]["code"], "120");
    for word in words {
        assert!(
            said.contains(word) && deny["event"]["reason"].as_str().unwrap().contains(word),
            "{word}: {said}"
        );
    }
    deny
}

/// A program of that name that starts `command` as its child, and waits: for those who look at their parent.
fn child_of(world: &World, name: &str, command: &Command) -> Command {
    let script = world.program(name, "#!/bin/sh\n\"$@\"\nexit $?\n");
    support::behind(script.to_str().unwrap(), &[], command)
}

/// `command` as HTCondor's starter starts it, in an account whose home directory is the world's.
fn by_starter(world: &World, command: &Command) -> Command {
    support::at_home(world, &world.path("home"), &child_of(world, "condor_starter", command))
}

#[test]
fn two_jobs_are_two_users() {
    let world = World::new();
    let zoe = of_job(&world, &ad(&world, "dir_1", TOKEN), &[]);
    assert_eq!(
        (&zoe["user"]["id"], &zoe["user"]["domain"]),
        (&json!("5b1d"), &json!("https://cms-auth.example/"))
    );
    let identity = &zoe["grid"]["identity"];
    assert_eq!((&identity["assurance"], &identity["source"]), (&json!("declared"), &json!("job-ad")));
    assert_eq!((&identity["jti"], &identity["groups"]), (&json!("j-1"), &json!(["/cms", "/cms/de"])));
    assert_eq!((&zoe["grid"]["vo"], &zoe["grid"]["role"]), (&json!("cms"), &json!("payload")));
    assert_eq!(zoe["grid"]["job"]["id"], "ap.example#12.0#1700000000");
    assert_eq!(identity["others"][0]["subject"], "zoe@ap.example");
    assert_eq!(zoe["related"]["user"], json!(["5b1d", "zoe@ap.example"]));

    let anna = of_job(&world, &ad(&world, "dir_2", PROXY), &[("SLURM_JOB_ID", "77")]);
    assert_eq!((&anna["user"]["id"], &anna["grid"]["vo"]), (&json!("/DC=org/CN=Anna"), &json!("atlas")));
    assert_eq!(anna["user"]["roles"][0], "/atlas/Role=production/Capability=NULL");
    assert_eq!(anna["grid"]["job"]["id"], "ap.example#13.0#1700000001");
    assert_eq!(anna["grid"]["pilot"]["batch_job_id"], json!(["slurm:77"]));
    assert!(anna["user"].get("domain").is_none_or(|domain| domain == "atlas"));

    // The log answers by name and by job.
    for (question, found) in [(["--user", "5b1d"], &zoe), (["--job", "ap.example#13.0#1700000001"], &anna)] {
        let said = text(&world.admin(&[&["trace"], &question[..]].concat()).stdout);
        assert!(
            said.contains("One payload matches") && said.contains(found["event"]["id"].as_str().unwrap()),
            "{said}"
        );
    }
}

#[test]
fn what_somebody_says_comes_first() {
    let world = World::new();
    let ad = ad(&world, "dir_1", TOKEN);
    let document = world.file("id.json", r#"{"user": "/DC=org/CN=Said", "vo": "dune"}"#);
    let said = of_job(&world, &ad, &[("BAILEY_IDENTITY", document.to_str().unwrap())]);
    assert_eq!((&said["user"]["id"], &said["grid"]["vo"]), (&json!("/DC=org/CN=Said"), &json!("dune")));
    assert_eq!(said["grid"]["identity"]["source"], "file");
    assert_eq!(said["grid"]["identity"]["others"][0]["subject"], "5b1d", "and what the ad says is kept");
    assert_eq!(said["grid"]["job"]["id"], "ap.example#12.0#1700000000");
}

/// HTCondor hands the environment of a job's user to what it starts as a container runtime.
#[test]
fn a_job_does_not_say_whose_it_is() {
    let world = World::new();
    let ad = ad(&world, "dir_1", TOKEN);
    let document = world.file(
        "who.json",
        r#"{"user": "/CN=Victim", "vo": "dune", "groups": ["/dune"], "job": "7", "pilot": "p", "task": "t"}"#,
    );
    let job = |more: &[(&str, &Path)]| {
        let mut command = contained(&world);
        command.env("BAILEY_IDENTITY", &document).env("SLURM_JOB_ID", "77").envs(more.iter().copied());
        command
    };
    let ours = [("_CONDOR_JOB_AD", ad.as_path())];
    let said = launched(&world, &run(&mut child_of(&world, "some_wrapper", &job(&ours))));
    assert_eq!(said["user"]["id"], "/CN=Victim", "a control: a pilot is believed");

    let launch = launched(&world, &run(&mut by_starter(&world, &job(&ours))));
    let identity = &launch["grid"]["identity"];
    assert_eq!((&launch["user"]["id"], &identity["source"]), (&json!("5b1d"), &json!("job-ad")));
    assert_eq!(
        (&launch["grid"]["vo"], &launch["user"]["roles"]),
        (&json!("cms"), &json!(["/cms", "/cms/de"]))
    );
    assert_eq!(launch["grid"]["job"], json!({"id": "ap.example#12.0#1700000000"}));
    assert!(launch["grid"]["pilot"].get("id").is_none(), "{launch}");
    let others: Vec<_> =
        identity["others"].as_array().unwrap().iter().map(|other| &other["subject"]).collect();
    assert_eq!(others, [&json!("zoe@ap.example"), &json!("/CN=Victim")]);
    assert_eq!(identity["others"][1]["source"], "file");
    let remarks = identity["remarks"].to_string();
    for remark in ["BAILEY_IDENTITY is of the job's own making", "ids of pilot and batch system"] {
        assert!(remarks.contains(remark), "{remarks}");
    }

    // Nor where there is no ad, and nothing that the job sets makes work of a pilot's system of it.
    let panda = [("PANDAID", Path::new("6123456789"))];
    let launch = launched(&world, &run(&mut child_of(&world, "some_wrapper", &job(&panda))));
    assert_eq!(launch["user"]["id"], "/CN=Victim");
    let launch = launched(&world, &run(&mut by_starter(&world, &job(&panda))));
    assert_eq!(launch["grid"]["identity"]["assurance"], "undeclared", "{launch}");
    assert!(launch["user"].get("id").is_none() && launch["grid"].get("job").is_none(), "{launch}");
    let deny = world.config("[identity]\nundeclared = \"deny\"\n");
    let denied = run(&mut by_starter(&world, &job(&[("BAILEY_CONFIG", &deny)])));
    refused(&world, &denied, &["nobody said whose it is"]);
    world.assert_closed();
}

/// Nor where its record is: there nobody would look for it.
#[test]
fn a_job_does_not_say_where_its_record_is() {
    let world = World::new();
    let account = world.directory("account");
    let ad = ad(&world, "dir_1", TOKEN);
    let (state, home) = (world.path("state"), world.path("home"));
    let logs = |base: &Path| base.exists().then(|| std::fs::read_dir(base).unwrap().count());
    let launch = |parent: &str, name: &str, value: &Path| {
        let mut command = contained(&world);
        command.env("_CONDOR_JOB_AD", &ad).env(name, value);
        let output = run(&mut support::at_home(&world, &account, &child_of(&world, parent, &command)));
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    };
    let in_account = account.join(".local/state/bailey");
    launch("some_wrapper", "XDG_STATE_HOME", &state);
    assert_eq!(
        (logs(&state.join("bailey")), logs(&in_account)),
        (Some(1), None),
        "a control: a pilot's environment counts"
    );
    std::fs::remove_dir_all(&state).unwrap();

    launch("condor_starter", "XDG_STATE_HOME", &state);
    assert_eq!((logs(&state), logs(&in_account)), (None, Some(1)));
    launch("condor_starter", "HOME", &home);
    assert_eq!(logs(&home), Some(0));

    // Whoever asks with another environment hears of it.
    let ask = |more: &[(&str, &Path)]| {
        let mut command = world.command(BAILEY);
        command.args(["trace", "--user", "5b1d"]).envs(more.iter().copied());
        run(&mut support::at_home(&world, &account, &command))
    };
    let refused = ask(&[("XDG_STATE_HOME", &state)]);
    let said = text(&refused.stderr);
    assert!(code(&refused) == 2 && said.contains(in_account.to_str().unwrap()), "{said}");
    let found = ask(&[("HOME", &account)]);
    assert!(text(&found.stdout).contains("2 payloads match"), "{}", text(&found.stdout));
    assert_eq!(text(&found.stderr), "");
    launch("some_wrapper", "XDG_STATE_HOME", &state);
    let found = ask(&[("XDG_STATE_HOME", &state)]);
    assert!(text(&found.stdout).contains("One payload matches"), "{}", text(&found.stdout));
    let said = text(&found.stderr);
    assert!(said.contains("another log") && said.contains(in_account.to_str().unwrap()), "{said}");
}

#[test]
fn bailey_exec_looks_only_where_the_site_says() {
    let world = World::new();
    let ad = ad(&world, "dir_1", TOKEN);
    let exec = |config: Option<&Path>| {
        let mut command = world.exec(&["--", "/bin/true"]);
        command
            .env("_CONDOR_JOB_AD", &ad)
            .env("PANDAID", "7")
            .envs(config.map(|config| ("BAILEY_CONFIG", config)));
        launched(&world, &run(&mut command))
    };
    let nothing = exec(None);
    assert_eq!(nothing["grid"]["identity"], json!({"assurance": "undeclared"}));
    assert!(nothing["grid"].get("job").is_none() && nothing["grid"].get("pilot").is_none());
    let config = world.config("[identity]\ndiscover_for = \"all\"\ndiscover = [\"job-ad\"]\n");
    assert_eq!(exec(Some(&config))["user"]["id"], "5b1d");
    // And nowhere where the list is empty.
    let config = world.config("[identity]\ndiscover = []\n");
    let mut command = contained(&world);
    command.env("_CONDOR_JOB_AD", &ad).env("BAILEY_CONFIG", &config);
    assert!(launched(&world, &run(&mut command))["user"].get("id").is_none());
}

#[test]
fn under_a_pilot_the_ad_is_the_pilots() {
    let world = World::new();
    let pilots = ad(&world, "dir_1", PROXY);
    let launch = of_job(
        &world,
        &pilots,
        &[
            ("PANDAID", "6123456789"),
            ("PanDA_TaskID", "345"),
            ("HARVESTER_ID", "h"),
            ("HARVESTER_WORKER_ID", "9"),
        ],
    );
    assert!(launch["user"].get("id").is_none(), "{launch}");
    assert_eq!(
        (&launch["grid"]["identity"]["assurance"], &launch["grid"]["identity"]["source"]),
        (&json!("undeclared"), &json!("panda"))
    );
    assert_eq!(launch["grid"]["job"], json!({"id": "6123456789", "task": "345"}));
    let pilot = &launch["grid"]["pilot"];
    assert_eq!(
        (&pilot["subject"], &pilot["names"][0]["subject"]),
        (&json!("/DC=org/CN=Anna"), &json!("/DC=org/CN=Anna"))
    );
    assert_eq!(pilot["batch_job_id"], json!(["harvester:h/9", "htcondor:ap.example#13.0#1700000001"]));
    assert_eq!((&launch["grid"]["role"], &launch["grid"]["vo"]), (&json!("payload"), &json!("atlas")));

    // DIRAC cleans the environment, and names its directory after the job.
    for name in ["tmp", "home", "var_tmp"] {
        world.directory(&format!("DIRAC_containers/job4711_ab/{name}"));
    }
    let dir = world.path("DIRAC_containers/job4711_ab");
    let mut command =
        apptainer(&world, &["exec", "--contain", "--workdir", dir.to_str().unwrap()], &["/bin/true"]);
    command.env("DIRACSYSCONFIG", "/tmp/pilot.cfg").env("DIRAC_PILOT_STAMP", "stamp-1");
    let launch = launched(&world, &run(&mut command));
    assert_eq!(
        (&launch["grid"]["job"]["id"], &launch["grid"]["pilot"]["id"]),
        (&json!("4711"), &json!("stamp-1"))
    );
    assert_eq!(launch["grid"]["identity"]["source"], "dirac");

    // JAliEn's job agent.
    let jalien = [("ALIEN_PROC_ID", "3003300330"), ("ALIEN_JOBAGENT_ID", "agent-1"), ("ALIEN_SITE", "Bed")];
    let launch = of_job(&world, &pilots, &jalien);
    assert!(launch["user"].get("id").is_none(), "{launch}");
    assert_eq!(
        (&launch["grid"]["job"]["id"], &launch["grid"]["pilot"]["id"]),
        (&json!("3003300330"), &json!("agent-1"))
    );
    assert_eq!(launch["grid"]["identity"]["source"], "alice");
    assert_eq!(launch["grid"]["pilot"]["batch_job_id"], json!(["htcondor:ap.example#13.0#1700000001"]));

    // A user who sets such a variable in the own job stays the user: the starter itself is the parent.
    let mut command = contained(&world);
    command.env("_CONDOR_JOB_AD", &pilots).env("PANDAID", "1");
    let launch = launched(&world, &run(&mut by_starter(&world, &command)));
    assert_eq!(
        (&launch["user"]["id"], &launch["grid"]["job"]["id"]),
        (&json!("/DC=org/CN=Anna"), &json!("ap.example#13.0#1700000001"))
    );
    assert!(launch["grid"]["pilot"].get("id").is_none(), "{launch}");
    let launch = launched(&world, &run(&mut child_of(&world, "some_wrapper", &command)));
    assert!(launch["user"].get("id").is_none());
}

#[test]
fn a_robot_is_no_user() {
    let world = World::new();
    let config =
        world.config("[identity]\nundeclared = \"record\"\npilots = [\"https://cms-auth.example/ 5b1d\"]\n");
    for (name, content) in [("token", TOKEN), ("role", &PROXY.replace("Role=production", "Role=pilot"))] {
        let mut command = contained(&world);
        command.env("_CONDOR_JOB_AD", ad(&world, name, content)).env("BAILEY_CONFIG", &config);
        let launch = launched(&world, &run(&mut command));
        assert!(launch["user"].get("id").is_none() && launch["related"].get("user").is_none(), "{launch}");
        assert_eq!(
            (&launch["grid"]["role"], &launch["grid"]["identity"]["assurance"]),
            (&json!("pilot"), &json!("undeclared"))
        );
    }
    let subject = world.records_of("payload-launch")[0]["grid"]["pilot"]["subject"].clone();
    assert_eq!(subject, "https://cms-auth.example/ 5b1d");
    let said = text(&world.admin(&["trace", "--pilot", "5b1d"]).stdout);
    assert!(said.contains("the pilot itself, no user's payload"), "{said}");
    // Nor where somebody says so; and a site that wants users does not take a pilot for one.
    let config = world.config("[identity]\nundeclared = \"deny\"\npilots = [\"/CN=Robot\"]\n");
    let mut command = world.exec(&["--user", "/CN=Robot", "--", "/bin/true"]);
    let output = run(command.env("BAILEY_CONFIG", &config));
    support::assert_refused(&output, 120, &["only its pilot is known (/CN=Robot)"]);
    assert_eq!(world.records_of("payload-deny").pop().unwrap()["grid"]["pilot"]["subject"], "/CN=Robot");
    let config = world.config("[identity]\npilots = [\"/CN=Robot\"]\n");
    let mut command = world.exec(&["--dry-run", "--user", "/CN=Robot", "--", "/bin/true"]);
    let plan = text(&run(command.env("BAILEY_CONFIG", &config)).stdout);
    for line in
        ["user         (nobody declared) [undeclared]", "role         pilot", "pilot        /CN=Robot"]
    {
        assert!(plan.lines().any(|said| said == line), "{plan}");
    }
}

#[test]
fn a_ban_holds_for_every_name_that_is_found() {
    Node::each(&[("bans", "settle = \"0s\"")], |node| {
        let ads = |name: &str| ad(&node.world, name, if name == "token" { TOKEN } else { PROXY });
        let launch = |ad: &Path, env: &[(&str, &str)]| {
            let mut command = contained(&node.world);
            command.env("_CONDOR_JOB_AD", ad).env("BAILEY_CONFIG", &node.config).envs(env.iter().copied());
            let output = run(&mut command);
            (code(&output), text(&output.stderr))
        };
        let banned = |(code, said): (i32, String)| {
            assert_eq!(code, 255, "{said}");
            assert!(said.starts_with("FATAL:   bailey[120]: ") && said.contains("it mines coins"), "{said}");
        };
        let (token, proxy) = (ads("token"), ads("proxy"));
        assert_eq!(launch(&token, &[]).0, 0, "a control: nobody is banned yet");
        assert_eq!(launch(&proxy, &[("PANDAID", "1")]).0, 0);

        node.ban("a.toml", &entry("user", "/DC=org/CN=Anna", ""));
        banned(launch(&proxy, &[]));
        banned(launch(&proxy, &[("PANDAID", "1")])); // whoever hides behind a pilot's variables
        assert_eq!(launch(&token, &[]).0, 0);
        let deny = node.records_of("payload-deny").pop().unwrap();
        assert_eq!(deny["grid"]["policy"]["ban"]["entry"], "a.toml:1", "{deny}");

        node.ban("a.toml", &entry("user", "zoe@ap.example", ""));
        banned(launch(&token, &[])); // the second name
        assert_eq!(launch(&proxy, &[]).0, 0);
        node.ban("a.toml", &entry("group", "/cms/de", ""));
        banned(launch(&token, &[]));
        banned(launch(&token, &[("DIRACSYSCONFIG", "/x")]));
        assert_eq!(launch(&proxy, &[]).0, 0);
    });
}

/// The launcher's own lists are empty: the recorder reads the names in the claim.
#[test]
fn the_recorder_holds_bans_against_them_too() {
    let node = Node::recorded(&[("recorder", "foreign_config = \"record\"")]);
    let empty = node.world.directory("no-bans.d");
    std::fs::set_permissions(&empty, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = std::fs::read_to_string(&node.config).unwrap();
    let config = config.replace(node.bans.to_str().unwrap(), empty.to_str().unwrap());
    let config = node.world.file("blind.toml", &config);
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (token, proxy) = (ad(&node.world, "token", TOKEN), ad(&node.world, "proxy", PROXY));
    let launch = |ad: &Path, env: &[(&str, &str)]| {
        let mut command = contained(&node.world);
        command.env("_CONDOR_JOB_AD", ad).env("BAILEY_CONFIG", &config).envs(env.iter().copied());
        let output = run(&mut command);
        let said = text(&output.stderr);
        assert_eq!(code(&output) == 255, said.contains("it mines coins"), "{said}");
        code(&output)
    };
    let names = format!("{}{}", entry("user", "zoe@ap.example", ""), entry("user", "/DC=org/CN=Anna", ""));
    assert_eq!((launch(&token, &[]), launch(&proxy, &[("PANDAID", "1")])), (0, 0));
    node.ban("a.toml", &names);
    std::thread::sleep(std::time::Duration::from_secs(3)); // the recorder's own look at the lists
    assert_eq!((launch(&token, &[]), launch(&proxy, &[("PANDAID", "1")])), (255, 255));
    // It records only so many refusals of one account a second.
    let deny = &node.recorder().wait_records("payload-deny", 1)[0];
    assert_eq!(deny["grid"]["identity"]["others"][0]["subject"], "zoe@ap.example");
}

#[test]
fn an_ad_that_is_spoilt_stops_and_one_that_is_missing_does_not() {
    let world = World::new();
    let with = |ad: &Path| run(contained(&world).env("_CONDOR_JOB_AD", ad));
    for nothing in ["NONE", "", "/nonexistent/.job.ad", "dir_x/.job.ad"] {
        let launch = launched(&world, &with(Path::new(nothing)));
        assert_eq!(launch["grid"]["identity"]["assurance"], "undeclared", "{nothing}");
    }
    let big = format!("{TOKEN}Junk = \"{}\"\n", "x".repeat(10 << 20));
    let twice = format!("{TOKEN}AuthTokenSubject = \"victim\"\n");
    for (name, content, why) in [
        ("big", big.as_str(), "larger than"),
        ("twice", &twice, "AuthTokenSubject is there twice"),
        ("form", "AuthTokenSubject = strcat(\"a\", \"b\")\n", "line 1: AuthTokenSubject is no plain string"),
        ("nul", "AuthTokenSubject = \"a\0b\"\n", "NUL"),
        ("name", "x509userproxysubject = \"/CN=\"\n", "CN has no value"),
        ("html", "<html>\n", "line 1: it is no attribute"),
    ] {
        refused(&world, &with(&ad(&world, name, content)), &["cannot tell whose payload this is", name, why]);
    }
    let fifo = world.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(&world, &with(&fifo), &["a FIFO"]);
    refused(&world, &with(&world.dir), &["a directory"]);
    let closed = ad(&world, "closed", TOKEN);
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o0)).unwrap();
    refused(&world, &with(&closed), &["EACCES"]);
    world.assert_closed();
}

/// Each ad is one that HTCondor writes for a user who has no token, and put this into an attribute.
#[test]
fn nobody_writes_another_name_into_the_own_ad() {
    let world = World::new();
    for (name, hostile) in [
        ("string", "Env = \"x\nAuthTokenSubject = \\\"victim\\\" \ny\"\n"),
        ("quoted", "Requirements = 'x\nAuthTokenSubject = \"victim\"\ny' =?= 1\n"),
        ("list", "Foo = { \"\nAuthTokenSubject = \",\"victim\" }\n"),
    ] {
        let launch = of_job(&world, &ad(&world, name, &format!("{hostile}User = \"u@ap.example\"\n")), &[]);
        assert!(launch["user"].get("id").is_none(), "{name}");
    }
    let ambiguous = ad(&world, "two", "Requirements = 'x\\'\nAuthTokenSubject = \"victim\"\ny' =?= 1\n");
    let output = run(contained(&world).env("_CONDOR_JOB_AD", &ambiguous));
    refused(&world, &output, &["which can be read in two ways"]);
}

#[test]
fn a_path_for_the_inside_is_not_the_hosts() {
    let world = World::new();
    let ours = ad(&world, "execute", TOKEN);
    let decoy = ad(&world, "decoy", PROXY);
    let who = |place: &Path| {
        let bind = format!("{}:{}", ours.parent().unwrap().display(), place.display());
        let mut command = apptainer(&world, &["exec", "--containall", "-B", &bind], &["/bin/true"]);
        command.env("APPTAINERENV__CONDOR_JOB_AD", place.join(".job.ad"));
        launched(&world, &run(&mut command))["user"]["id"].clone()
    };
    assert_eq!(who(Path::new("/srv")), "5b1d");
    // The host has an ad at that very place, which is not the one that the payload sees there.
    assert_eq!(who(decoy.parent().unwrap()), "5b1d");
}

#[test]
fn probes_are_told_apart_and_gain_nothing() {
    let world = World::new();
    let uid_map = &["cat", "/proc/self/uid_map"];
    let probe = |config: Option<&Path>, command: &[&str]| {
        let mut command = apptainer(&world, &["exec", "--containall"], command);
        run(command.envs(config.map(|config| ("BAILEY_CONFIG", config))))
    };
    let launch = launched(&world, &probe(None, uid_map));
    assert_eq!(
        (&launch["grid"]["role"], &launch["grid"]["identity"]["assurance"]),
        (&json!("probe"), &json!("undeclared"))
    );
    assert!(
        launch["grid"]["limits"].get("wall_time").is_none(),
        "with nothing to be let off it runs as payloads do"
    );
    let said = text(&world.admin(&["trace", "--at", "now", "--from", "2020-01-01T00:00:00Z"]).stdout);
    let said = if said.contains("probe") {
        said
    } else {
        text(&world.admin(&["trace", "--from", "2020-01-01T00:00:00Z"]).stdout)
    };
    assert!(said.contains("a probe: a question whether payloads would run here"), "{said}");

    let deny = world.config("[identity]\nundeclared = \"deny\"\n");
    refused(&world, &probe(Some(&deny), uid_map), &["nobody said whose it is"]);
    assert_eq!(world.records_of("payload-deny").pop().unwrap()["grid"]["role"], "probe");

    let allow = world.config("[identity]\nundeclared = \"deny\"\nprobes = \"allow\"\n");
    let launch = launched(&world, &probe(Some(&allow), uid_map));
    assert_eq!(
        (&launch["grid"]["role"], &launch["grid"]["limits"]["wall_time"]),
        (&json!("probe"), &json!(120))
    );
    assert_eq!(launch["grid"]["sandbox"]["network_namespace"], "on");
    refused(&world, &probe(Some(&allow), &["/bin/true"]), &["nobody said whose it is"]);
    refused(&world, &probe(Some(&allow), &["cat", "/proc/self/uid_map", "/etc/passwd"]), &["nobody said"]);

    // A probe of somebody's is that somebody's, and has what payloads have.
    let mut command = apptainer(&world, &["exec", "--containall"], uid_map);
    command.env("BAILEY_CONFIG", &allow).env("_CONDOR_JOB_AD", ad(&world, "dir_1", TOKEN));
    let launch = launched(&world, &run(&mut command));
    assert_eq!((&launch["grid"]["role"], &launch["user"]["id"]), (&json!("probe"), &json!("5b1d")));
    assert!(launch["grid"]["limits"].get("wall_time").is_none());
}
