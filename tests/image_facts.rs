//! What images say of themselves, and what hostile ones try with it: nothing outside the image is read, nothing waits, and
//! the launch goes on with what is left.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use bailey::image::facts::{self, EndOfLife, Told};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Attack, World, code, image, stdout, text};

const LABELS: &str =
    r#"{"org.label-schema.build-date":"Tuesday_4_April_2023_13:15:56_UTC","maintainer":"someone"}"#;
const ALMA: &str = "NAME=\"AlmaLinux\"\nID=\"almalinux\"\nVERSION_ID=\"9.3\"\n";

fn told(image: &Path) -> Told {
    let start = Instant::now();
    let told = facts::of_directory(File::open(image).unwrap().as_fd());
    assert!(start.elapsed() < support::patience(Duration::from_secs(2)), "it waited");
    told
}

fn os(image: &Path) -> Option<String> {
    told(image).os.map(|os| os.to_string())
}

#[test]
fn an_unpacked_image_tells_its_age_its_labels_and_its_system() {
    let world = World::new();
    world.file("image/.singularity.d/labels.json", LABELS);
    world.file("image/usr/lib/os-release", ALMA);
    world.directory("image/etc");
    symlink("../usr/lib/os-release", world.path("image/etc/os-release")).unwrap();
    let told = told(&world.path("image"));
    let (when, by) = told.made.unwrap();
    assert_eq!(when.to_string(), "2023-04-04T13:15:56.000000000Z");
    assert_eq!(by, "label org.label-schema.build-date");
    assert_eq!(told.labels["maintainer"], "someone");
    let os = told.os.unwrap();
    assert_eq!(os.to_string(), "almalinux 9.3");
    assert_eq!(EndOfLife::builtin().of(&os).unwrap().day(), "2032-05-31");
    assert!(told.remarks.is_empty(), "{:?}", told.remarks);
}

#[test]
fn systems_from_before_os_release_are_known() {
    let world = World::new();
    let image = world.directory("image");
    assert_eq!(told(&image), Told::default(), "an empty image says nothing");
    world.file("image/etc/debian_version", "6.0.10\n");
    assert_eq!(os(&image).unwrap(), "debian 6.0.10");
    world.file("image/etc/redhat-release", "Scientific Linux release 6.10 (Carbon)\n");
    assert_eq!(os(&image).unwrap(), "scientific 6.10");
    world.file("image/usr/lib/os-release", ALMA);
    assert_eq!(os(&image).unwrap(), "almalinux 9.3");
    world.file("image/etc/os-release", "ID=debian\nVERSION_ID=12\n");
    assert_eq!(os(&image).unwrap(), "debian 12");
    // The host's own, as the Debian and the EL test beds have it.
    let host = facts::of_host().unwrap();
    let file = fs::read_to_string("/etc/os-release").unwrap();
    assert!(
        file.contains(&host.id) && file.contains(host.version_id.as_deref().unwrap_or_default()),
        "{host:?}"
    );
}

// As in runc CVE-2019-16884 and Singularity CVE-2018-19295: a file of the image that is a link out of it.
#[test]
fn links_stay_inside_the_image() {
    let world = World::new();
    let outside = world.file("outside/os-release", "ID=outside\n");
    let below = world.file("image/below/etc/os-release", "ID=below\n");
    let image = world.path("image");
    let place = world.path("image/etc/os-release");
    world.directory("image/etc");
    let dots = format!("../../../../../../../../..{}", outside.display());
    for (target, expected) in [
        // It leads out for whoever follows it on the host, and to nothing inside.
        (outside.to_str().unwrap(), None),
        (dots.as_str(), None),
        ("../../outside/os-release", None),
        ("/proc/self/root/etc/os-release", None),
        ("/proc/self/cwd", None),
        ("/etc/shadow", None),
        ("os-release", None),
        ("/below/etc/os-release", Some("below")),
        ("../../../../../below/etc/os-release", Some("below")),
    ] {
        symlink(target, &place).unwrap();
        if target == outside.to_str().unwrap() {
            assert_eq!(fs::read_to_string(&place).unwrap(), "ID=outside\n", "a control");
        }
        assert_eq!(os(&image).as_deref(), expected, "{target}");
        fs::remove_file(&place).unwrap();
    }
    // The same by a directory of the way.
    fs::remove_dir(world.path("image/etc")).unwrap();
    symlink(world.path("outside"), world.path("image/etc")).unwrap();
    assert_eq!(os(&image), None);
    fs::remove_file(world.path("image/etc")).unwrap();
    symlink("below/etc", world.path("image/etc")).unwrap();
    assert_eq!(os(&image).unwrap(), "below");
    assert!(below.exists());
    // A loop is said, and the next file is asked.
    fs::remove_file(world.path("image/etc")).unwrap();
    symlink("etc", world.path("image/etc")).unwrap();
    world.file("image/usr/lib/os-release", ALMA);
    let told = told(&image);
    assert_eq!(told.os.unwrap().to_string(), "almalinux 9.3");
    assert!(
        told.remarks[0].contains("etc/os-release: ") && told.remarks[0].contains("ELOOP"),
        "{:?}",
        told.remarks
    );
}

#[test]
fn what_is_no_small_regular_file_is_not_read() {
    for name in [".singularity.d/labels.json", "etc/os-release"] {
        for (kind, word) in [
            ("directory", "a directory"),
            ("fifo", "a FIFO"),
            ("socket", "a socket"),
            ("unreadable", "EACCES"),
            ("large", "larger than 65536 bytes"),
            ("hole", "larger than 65536 bytes"),
            ("noise", ""),
            ("nul", ""),
        ] {
            let world = World::new();
            let path = world.path("image").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            world.file("image/usr/lib/os-release", ALMA);
            match kind {
                "directory" => fs::create_dir(&path).unwrap(),
                "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
                "unreadable" => {
                    fs::write(&path, "ID=x\n").unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
                }
                "large" => fs::write(&path, "ID=large\n".repeat(10 << 20 >> 3)).unwrap(),
                "hole" => File::create(&path).unwrap().set_len(1 << 40).unwrap(),
                "noise" => fs::write(&path, [0xff, 0xfe, b'\n', b'=', b'\n', 0x80]).unwrap(),
                _ => fs::write(&path, [0; 4096]).unwrap(),
            }
            let told = told(&world.path("image"));
            assert_eq!(told.remarks.len(), 1, "{name} {kind}: {:?}", told.remarks);
            let base = name.rsplit('/').next().unwrap();
            assert!(
                told.remarks[0].contains(base) && told.remarks[0].contains(word),
                "{kind}: {:?}",
                told.remarks
            );
            assert!(told.labels.is_empty() && told.made.is_none());
            assert_eq!(told.os.unwrap().to_string(), "almalinux 9.3", "{name} {kind}: the next file counts");
        }
    }
}

// The one device that everybody may make (mknod(2), Linux 5.8): the mark of a removed file in an overlay.
#[test]
fn a_device_is_not_opened() {
    let world = World::new();
    let image = world.directory("image/etc");
    let made = std::process::Command::new("mknod")
        .arg(image.join("os-release"))
        .args(["c", "0", "0"])
        .output()
        .unwrap();
    if !made.status.success() {
        return support::skip(
            "a_device_is_not_opened",
            "this kernel lets no ordinary user make a device 0:0",
        );
    }
    world.file("image/usr/lib/os-release", ALMA);
    let told = told(&world.path("image"));
    assert_eq!(told.remarks, ["etc/os-release: it is a device, expected a regular file"]);
    assert_eq!(told.os.unwrap().to_string(), "almalinux 9.3");
}

#[test]
fn a_swapped_file_is_one_of_the_two() {
    let world = World::new();
    world.file("image/etc/os-release", "ID=first\n");
    world.directory("image/outside");
    world.file("outside/os-release", "ID=outside\n");
    let other = world.path("image/etc/other");
    symlink(world.path("outside/os-release"), &other).unwrap();
    let racing = support::Racing::swap(&world.path("image/etc/os-release"), &other);
    let end = Instant::now() + Duration::from_secs(1);
    let mut seen = 0;
    while Instant::now() < end {
        match os(&world.path("image")).as_deref() {
            Some("first") => seen += 1,
            None => {}
            other => panic!("{other:?}"),
        }
    }
    drop(racing);
    assert!(seen > 0);
}

/// The time of a whole reading, the best of many: the machine may be busy with something else.
#[test]
fn reading_costs_less_than_a_tenth_of_a_millisecond() {
    let world = World::new();
    world.file("image/.singularity.d/labels.json", LABELS);
    world.file("image/usr/lib/os-release", &fs::read_to_string(image().join("usr/lib/os-release")).unwrap());
    world.directory("image/etc");
    symlink("../usr/lib/os-release", world.path("image/etc/os-release")).unwrap();
    for (name, path) in
        [("labels and link", world.path("image")), ("Debian", image()), ("empty", world.directory("e"))]
    {
        let root = File::open(&path).unwrap();
        let mut times: Vec<Duration> = (0..2000)
            .map(|_| {
                let start = Instant::now();
                std::hint::black_box(facts::of_directory(root.as_fd()));
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{name}: best {:?}, median {:?}", times[0], times[1000]);
        assert!(times[0] < Duration::from_micros(100), "{name}: {:?}", times[0]);
    }
}

#[test]
fn the_record_of_a_launch_has_it() {
    let world = World::new();
    assert_eq!(stdout(&world.shell(&[], "echo ran")), "ran");
    let records = world.records();
    let launch = records.iter().find(|record| record["event"]["action"] == "payload-launch").unwrap();
    assert_eq!(launch["grid"]["image"]["os"], "debian 12");
    assert_eq!(launch["grid"]["image"]["end_of_life"], "2028-06-30");
    assert!(launch["grid"]["image"].get("remarks").is_none(), "{}", launch["grid"]["image"]);
    // Without an image nothing is said of one.
    let world = World::new();
    assert_eq!(code(&world.host_shell(&[], "true")), 0);
    assert!(world.records().iter().all(|record| record["grid"].get("image").is_none()));
}

#[test]
fn a_hostile_image_runs_and_its_record_says_what_could_not_be_read() {
    let world = World::new();
    let attack = Attack::new(&world);
    let image = world.directory("image");
    fs::copy(&attack.0, image.join("p")).unwrap();
    world.file("image/.singularity.d/labels.json", LABELS);
    world.directory("image/etc");
    nix::unistd::mkfifo(&image.join("etc/os-release"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    world.file("image/etc/redhat-release", "Scientific Linux release 6.10 (Carbon)\n");
    let run = |options: &[&str]| {
        let mut command = world.exec(&["--image"]);
        command.arg(&image).args(options).args(["--", "/p", "exit", "0"]).output().unwrap()
    };
    let planned = text(&run(&["--dry-run"]).stdout);
    assert!(planned.contains("2023-04-04 (label org.label-schema.build-date)"), "{planned}");
    assert!(planned.contains("scientific 6.10, supported to 2020-11-30"), "{planned}");
    let output = run(&[]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let told = &world.records()[1]["grid"]["image"];
    assert_eq!(told["created"], "2023-04-04T13:15:56.000000000Z");
    assert_eq!(told["created_by"], "label org.label-schema.build-date");
    assert_eq!(told["os"], "scientific 6.10");
    assert_eq!(told["end_of_life"], "2020-11-30");
    assert_eq!(told["remarks"][0], "etc/os-release: it is a FIFO, expected a regular file");
    world.assert_no_trace();
}

/// A SIF file as the format's description has it, with every liberty that a test needs.
#[derive(Clone)]
struct Sif {
    launch: &'static str,
    arch: &'static str,
    version: &'static str,
    created: i64,
    /// Free and all descriptors, offset and length of their table, offset and length of the data.
    numbers: [u64; 6],
    /// Kind, used, name, content.
    objects: Vec<(u32, u8, &'static str, Vec<u8>)>,
}

impl Sif {
    fn new(created: i64) -> Self {
        let numbers = [48, 48, 4096, 48 * 585, 32176, 0];
        Self { launch: "", arch: "00", version: "01", created, numbers, objects: Vec::new() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = self.launch.as_bytes().to_vec();
        file.resize(32, 0);
        file.extend_from_slice(b"SIF_MAGIC\0");
        file.extend_from_slice(format!("{}\0{}\0", self.version, self.arch).as_bytes());
        file.resize(64, 0); // no identity
        file.extend_from_slice(&self.created.to_le_bytes());
        file.extend_from_slice(&self.created.to_le_bytes());
        self.numbers.iter().for_each(|number| file.extend_from_slice(&number.to_le_bytes()));
        file.resize(4096, 0);
        let mut at = 32176;
        for (kind, used, name, content) in &self.objects {
            let start = file.len();
            file.extend_from_slice(&kind.to_le_bytes());
            file.push(*used);
            file.extend_from_slice(&[0; 12]);
            for number in [at, content.len() as u64] {
                file.extend_from_slice(&number.to_le_bytes());
            }
            file.resize(start + 73, 0);
            file.extend_from_slice(name.as_bytes());
            file.resize(start + 585, 0);
            at += content.len() as u64;
        }
        file.resize(32176, 0);
        self.objects.iter().for_each(|object| file.extend_from_slice(&object.3));
        file
    }

    fn read(&self, world: &World) -> Result<Told, String> {
        fs::write(world.path("x.sif"), self.bytes()).unwrap();
        facts::of_sif(&File::open(world.path("x.sif")).unwrap())
    }
}

fn inspect(labels: &str) -> Vec<u8> {
    format!(
        "{{\"data\":{{\"attributes\":{{\"runscript\":\"x\",\"labels\":{labels}}}}},\"type\":\"container\"}}"
    )
    .into_bytes()
}

#[test]
fn a_sif_file_tells_when_it_was_made() {
    use sha2::Digest as _;
    let world = World::new();
    // The header that the makers' own library wrote in its test image one-object-time.sif, byte for byte.
    let mut sif = Sif::new(1_593_475_316);
    sif.numbers = [47, 48, 4096, 28080, 32176, 2];
    sif.objects = vec![(0x4007, 1, "", b"xy".to_vec())];
    let digest = bailey::audit::chain::hex(&sha2::Sha256::digest(&sif.bytes()[..128]).into());
    assert_eq!(digest, "44cb74a6bb43863cf492a3f1dfe526688401d0bf2757eefad8856abd6cd410b1");
    let told = sif.read(&world).unwrap();
    let (when, by) = told.made.unwrap();
    assert_eq!((when.to_string().as_str(), by.as_str()), ("2020-06-30T00:01:56.000000000Z", "sif-header"));
    assert_eq!((told.labels.len(), told.remarks.len()), (0, 0));
    // Go's zero time, as in reproducible files.
    let told = Sif::new(-62_135_596_800).read(&world).unwrap();
    assert_eq!(
        (told.made, told.remarks.as_slice()),
        (None, &["the SIF header has no time of creation".to_owned()][..])
    );
    // A label comes first, and only the object that `apptainer inspect` shows has them.
    let mut sif = Sif::new(1_593_475_316);
    sif.objects = vec![
        (0x4006, 0, "inspect-metadata.json", inspect("{\"deleted\":\"x\"}")),
        (0x4006, 1, "oci-config.json", inspect("{\"other\":\"x\"}")),
        (0x4006, 1, "inspect-metadata.json", inspect(LABELS)),
    ];
    let told = sif.read(&world).unwrap();
    assert_eq!(told.made.unwrap().1, "label org.label-schema.build-date");
    assert_eq!(told.labels.keys().collect::<Vec<_>>(), ["maintainer", "org.label-schema.build-date"]);
    // What it cannot be used for is said, and the header's time stands.
    for content in [b"{".to_vec(), inspect("[]"), vec![b' '; (1 << 20) + 1]] {
        sif.objects = vec![(0x4006, 1, "inspect-metadata.json", content)];
        let told = sif.read(&world).unwrap();
        assert_eq!(told.made.unwrap().1, "sif-header");
        assert!(told.remarks[0].starts_with("inspect-metadata.json: "), "{:?}", told.remarks);
    }
}

#[test]
fn a_sif_file_that_lies_is_refused() {
    let world = World::new();
    let sif = Sif::new(1_593_475_316);
    for (index, value, word) in [
        (1, u64::MAX, "descriptors end beyond"),
        (1, u64::MAX / 585 + 2, "descriptors end beyond"),
        (2, 32176 - 48 * 585 + 1, "descriptors end beyond"),
        (2, u64::MAX, "descriptors end beyond"),
        (2, u64::MAX - 28079, "descriptors end beyond"),
        (4, u64::MAX, "data end beyond"),
        (5, 1, "data end beyond"),
        (5, u64::MAX, "data end beyond"),
    ] {
        let mut bad = sif.clone();
        bad.numbers[index] = value;
        let why = bad.read(&world).unwrap_err();
        assert!(why.contains(word), "{index} {value}: {why}");
    }
    let mut many = sif.clone();
    many.numbers[1] = 1025;
    many.objects = vec![(0x4007, 1, "", vec![0; 1 << 20])];
    assert!(many.read(&world).unwrap_err().contains("more than 1024"));
    // An object that lies outside the file, or so far that the sum overflows.
    for (offset, length) in [(32176_u64, 1_u64), (u64::MAX, 1), (u64::MAX - 10, 20), (1 << 40, 10)] {
        let mut bytes = sif.bytes();
        bytes[4096..4100].copy_from_slice(&0x4006_u32.to_le_bytes());
        bytes[4100] = 1;
        bytes[4113..4121].copy_from_slice(&offset.to_le_bytes());
        bytes[4121..4129].copy_from_slice(&length.to_le_bytes());
        bytes[4169..4190].copy_from_slice(b"inspect-metadata.json");
        let path = world.path("far.sif");
        fs::write(&path, &bytes).unwrap();
        let told = facts::of_sif(&File::open(path).unwrap()).unwrap();
        assert_eq!(told.remarks, ["inspect-metadata.json: it ends beyond the file"]);
    }
    let mut version = sif.clone();
    for bad in ["02", "1 ", "xx"] {
        version.version = bad;
        assert!(version.read(&world).unwrap_err().contains("version"), "{bad}");
    }
    // Every length that a download can stop at, of the part that matters.
    let whole = sif.bytes();
    for length in (0..whole.len()).step_by(61).chain(0..130) {
        let path = world.path("cut.sif");
        fs::write(&path, &whole[..length]).unwrap();
        assert!(facts::of_sif(&File::open(path).unwrap()).is_err(), "{length}");
    }
    assert!(facts::of_sif(&File::open("/dev/null").unwrap()).unwrap_err().contains("regular"));
    assert!(facts::of_sif(&File::open(&world.dir).unwrap()).unwrap_err().contains("regular"));
    // It cannot be run yet, and bailey says what it always said.
    let path = world.path("x.sif");
    fs::write(&path, &whole).unwrap();
    let output = world.exec(&["--image"]).arg(&path).args(["--", "/bin/true"]).output().unwrap();
    support::assert_refused(&output, 125, &["SIF and SquashFS images are not supported yet"]);
}

/// The fuzz target's promises (fuzz/fuzz_targets/image.rs) without its tools: good files, changed at random.
#[test]
fn changed_files_are_read_or_refused_and_never_more() {
    use bailey::image::{labels, os_release, sif};
    let mut sif_file = Sif::new(1_593_475_316);
    sif_file.objects = vec![(0x4006, 1, "inspect-metadata.json", inspect(LABELS))];
    let seeds: [Vec<u8>; 5] = [
        ALMA.as_bytes().to_vec(),
        b"ID='x'\nNAME=\"a\\\"b\"\nVERSION_ID=a\\b\nSUPPORT_END=2030-01-01\n".to_vec(),
        b"Scientific Linux release 6.10 (Carbon)\n".to_vec(),
        LABELS.as_bytes().to_vec(),
        sif_file.bytes()[..128].to_vec(),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut dice = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let (mut read, mut refused) = ([0; 3], [0; 3]);
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=dice(4) {
            let at = dice(bytes.len());
            match dice(4) {
                0 => bytes[at] = dice(256) as u8,
                1 => bytes[at] = b"\"'\\=\n#$ {}\0\xff"[dice(12)],
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, [0, 0xff, b'"', b'\\', b'\n'][dice(5)]),
            }
        }
        let count = |counts: &mut [i32; 3], index: usize| counts[index] += 1;
        let (os, skipped) = os_release::parse(&bytes);
        count(if skipped == 0 { &mut read } else { &mut refused }, 0);
        for os in [os, os_release::redhat(&bytes), os_release::debian(&bytes)].into_iter().flatten() {
            let shown = os.to_string();
            assert!(!os.id.is_empty() && shown.len() < 256 && !shown.contains(char::is_control), "{shown:?}");
            for name in [&os.name, &os.pretty_name].into_iter().flatten() {
                assert!(name.len() <= 256 && !name.contains(char::is_control), "{name:?}");
            }
            let _ = EndOfLife::builtin().of(&os);
        }
        match labels::parse(&bytes) {
            Ok(_) => count(&mut read, 1),
            Err(why) => {
                assert!(why.len() < 200 && !why.contains(char::is_control), "{why:?}");
                count(&mut refused, 1);
            }
        }
        if let Some(header) = bytes.first_chunk::<{ sif::HEADER }>() {
            match sif::header(header, 32176 + 1000) {
                Ok(_) => count(&mut read, 2),
                Err(_) => count(&mut refused, 2),
            }
        }
    }
    assert!(read.iter().chain(&refused).all(|count| *count > 100), "{read:?} {refused:?}");
}
