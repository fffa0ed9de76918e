//! The disk cache: hits, damage, hostile directories, concurrent and dying writers.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use attn_compiler::artifact::Artifact;
use attn_compiler::expr::Pool;
use attn_runtime::cache::{Cache, Key};

const BIG: u64 = 1 << 30;

fn artifact(name: &str, code_bytes: usize) -> Artifact {
    Artifact {
        name: name.to_string(),
        target: "cpu x86_64".to_string(),
        pool: Pool::new(),
        scalars: vec![],
        tensors: vec![],
        requires: vec![],
        checks: vec![],
        demands: vec![],
        check_vars: vec![],
        launches: vec![],
        // Every byte follows from the name, so that a torn entry would show.
        code: (0..code_bytes).map(|n| (n as u8) ^ name.as_bytes()[n % name.len()]).collect(),
        schedule: String::new(),
    }
}

fn keys(name: &str) -> (Key, Key) {
    (Key::of("index", &[name.as_bytes()]), Key::of("kernel", &[name.as_bytes()]))
}

fn publish(cache: &Cache, name: &str, code_bytes: usize) {
    let (index, kernel) = keys(name);
    assert_eq!(cache.publish(&index, &kernel, &artifact(name, code_bytes)), None);
}

fn open(dir: &Path) -> Cache {
    let (cache, warning) = Cache::at(dir, BIG);
    assert_eq!(warning, None);
    cache
}

#[track_caller]
fn assert_hit(cache: &Cache, name: &str, code_bytes: usize) {
    let found = cache.lookup(&keys(name).0);
    assert_eq!(found.warning, None);
    let found = found.artifact.expect("a hit");
    assert_eq!((found.name.as_str(), found.code), (name, artifact(name, code_bytes).code));
}

#[test]
fn what_was_published_is_found_by_either_key() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir.path().join("made/on/demand"));
    assert!(cache.lookup(&keys("a").0).artifact.is_none());
    publish(&cache, "a", 1000);
    assert_hit(&cache, "a", 1000);
    assert_eq!(cache.lookup_kernel(&keys("a").1).artifact.unwrap().name, "a");
    let stat = cache.stat();
    assert_eq!((stat.kernels, stat.indices, stat.max_bytes), (1, 1, BIG));
    assert_eq!(cache.list().len(), 2);
    assert_eq!(cache.clear().unwrap(), stat.bytes);
    assert!(cache.lookup(&keys("a").0).artifact.is_none());
}

#[test]
fn keys_do_not_run_together() {
    assert_ne!(Key::of("k", &[b"ab", b"c"]), Key::of("k", &[b"a", b"bc"]));
    assert_ne!(Key::of("k", &[b"a"]), Key::of("l", &[b"a"]));
    assert_eq!(Key::of("k", &[b"a"]).to_string().len(), 64);
}

#[test]
fn a_hit_takes_less_than_a_millisecond() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path().join("c").as_path());
    publish(&cache, "a", 64 << 10);
    let fastest = (0..50)
        .map(|_| {
            let start = Instant::now();
            assert!(cache.lookup(&keys("a").0).artifact.is_some());
            start.elapsed()
        })
        .min();
    assert!(fastest.unwrap() < Duration::from_millis(1), "{fastest:?}");
}

#[test]
fn an_entry_damaged_at_any_byte_is_a_miss_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path().join("c").as_path());
    let (index, kernel) = keys("a");
    for extension in ["kernel", "index"] {
        publish(&cache, "a", 16);
        let key = if extension == "kernel" { kernel } else { index };
        let path = cache.dir().unwrap().join(format!("{key}.{extension}"));
        let good = fs::read(&path).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
        bad.push([good.clone(), vec![0]].concat());
        for n in 0..good.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[n] ^= flip;
                bad.push(bytes);
            }
        }
        for bytes in bad {
            fs::write(&path, &bytes).unwrap();
            let found = cache.lookup(&index);
            assert!(found.artifact.is_none());
            assert!(found.warning.unwrap().to_string().contains("damaged and was removed"));
            assert!(!path.exists());
            let again = cache.lookup(&index);
            assert!(again.artifact.is_none() && again.warning.is_none(), "a second look is a plain miss");
        }
        fs::write(&path, &good).unwrap();
        assert_hit(&cache, "a", 16);
    }
}

#[test]
fn an_intact_entry_under_a_foreign_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path().join("c").as_path());
    publish(&cache, "a", 16);
    publish(&cache, "b", 16);
    let path = |key: Key, extension: &str| cache.dir().unwrap().join(format!("{key}.{extension}"));
    fs::copy(path(keys("a").1, "kernel"), path(keys("b").1, "kernel")).unwrap();
    assert!(cache.lookup(&keys("b").0).warning.unwrap().to_string().contains("hash"));
    fs::copy(path(keys("a").1, "kernel"), path(keys("b").0, "index")).unwrap();
    assert!(cache.lookup(&keys("b").0).warning.is_some());
    assert_hit(&cache, "a", 16);
}

#[test]
fn the_least_recently_used_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("c");
    let cache = open(&dir);
    let names = ["a", "b", "c", "d"];
    for name in names {
        publish(&cache, name, 10_000);
    }
    for (n, name) in ["b", "d", "a", "c"].iter().enumerate() {
        for file in [format!("{}.index", keys(name).0), format!("{}.kernel", keys(name).1)] {
            let file = fs::File::open(dir.join(file)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(1000 - 100 * n as u64)).unwrap();
        }
    }
    // A hit is a use.
    assert_hit(&cache, "b", 10_000);
    fs::write(dir.join("somebody-elses-file"), vec![0; 100_000]).unwrap();
    let (small, _) = Cache::at(&dir, 35_000);
    publish(&small, "e", 10_000);
    let kept: Vec<&str> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .filter(|name| small.lookup(&keys(name).0).artifact.is_some())
        .collect();
    assert_eq!(kept, ["b", "c", "e"]);
    assert!(small.stat().bytes <= 35_000);
    assert!(dir.join("somebody-elses-file").exists());
}

#[test]
fn directories_that_cannot_be_trusted_or_used_mean_no_cache() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [file.clone(), file.join("below"), Path::new("/proc/attnc-cache").to_path_buf()] {
        let (cache, warning) = Cache::at(&bad, BIG);
        assert!(warning.unwrap().to_string().starts_with("kernels are not cached"), "{bad:?}");
        assert_eq!(cache.dir(), None);
        assert_eq!(cache.publish(&keys("a").0, &keys("a").1, &artifact("a", 8)), None);
        assert!(cache.lookup(&keys("a").0).artifact.is_none());
        drop(cache.lock(&keys("a").0));
        assert_eq!(cache.clear().unwrap(), 0);
    }
    let (off, warning) = Cache::at(dir.path(), 0);
    assert!(off.dir().is_none() && warning.is_none());
}

#[cfg(unix)]
#[test]
fn the_directory_is_private() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("c");
    let cache = open(&dir);
    publish(&cache, "a", 8);
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    for e in cache.list() {
        assert_eq!(fs::metadata(dir.join(&e.name)).unwrap().mode() & 0o077, 0, "{}", e.name);
    }
    for mode in [0o770, 0o707, 0o777] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        let (cache, warning) = Cache::at(&dir, BIG);
        assert!(cache.dir().is_none());
        assert!(warning.unwrap().to_string().contains("others may write to it"), "{mode:o}");
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    // Only root can give a directory away, and read /proc/1 as another user's.
    if std::os::unix::fs::chown(&dir, Some(12345), None).is_ok() {
        let (cache, warning) = Cache::at(&dir, BIG);
        assert!(cache.dir().is_none());
        assert!(warning.unwrap().to_string().contains("belongs to user 12345"));
    }
}

#[test]
fn a_cache_that_stops_taking_writes_says_so_once() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("c");
    let cache = open(&dir);
    publish(&cache, "a", 8);
    // Works for root too, whom permissions do not stop: the directory is gone.
    fs::rename(&dir, parent.path().join("moved")).unwrap();
    let (index, kernel) = keys("b");
    let first = cache.publish(&index, &kernel, &artifact("b", 8));
    assert!(first.unwrap().to_string().starts_with("kernels are not cached"));
    assert_eq!(cache.publish(&index, &kernel, &artifact("b", 8)), None);
    assert!(cache.lookup(&keys("a").0).artifact.is_none());
}

#[test]
fn concurrent_writers_and_readers_see_whole_entries() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("c");
    drop(open(&dir));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let dir = &dir;
            scope.spawn(move || {
                // A small limit, so that eviction runs all the time.
                let (cache, _) = Cache::at(dir, 60_000);
                for round in 0..40 {
                    let name = format!("n{}", (round + worker) % 5);
                    let (index, _) = keys(&name);
                    let _lock = cache.lock(&index);
                    publish(&cache, &name, 20_000);
                    let found = cache.lookup(&index);
                    assert_eq!(found.warning, None);
                    if let Some(found) = found.artifact {
                        assert_eq!(found.code, artifact(&name, 20_000).code);
                    }
                }
            });
        }
    });
}

#[test]
fn a_lock_makes_others_wait() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path().join("c").as_path());
    let key = keys("a").0;
    let held = cache.lock(&key);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            drop(cache.lock(&key));
            Instant::now()
        });
        std::thread::sleep(Duration::from_millis(50));
        let released = Instant::now();
        drop(held);
        assert!(waiter.join().unwrap() >= released);
    });
}

/// Not a test by itself: the child of `writers_that_are_killed_leave_no_torn_entry`, which writes until it dies.
#[test]
fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os("ATTN_TEST_CACHE_VICTIM") else { return };
    let cache = open(Path::new(&dir));
    for round in 0.. {
        publish(&cache, &format!("n{}", round % 3), 300_000);
    }
}

#[test]
fn writers_that_are_killed_leave_no_torn_entry() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("c");
    let cache = open(&dir);
    let mut hits = 0;
    for round in 0..15u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "caching::child_that_writes_until_killed"])
            .env("ATTN_TEST_CACHE_VICTIM", &dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + round * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        for name in ["n0", "n1", "n2"] {
            let found = cache.lookup(&keys(name).0);
            assert_eq!(found.warning, None);
            if let Some(found) = found.artifact {
                assert_eq!(found.code, artifact(name, 300_000).code);
                hits += 1;
            }
        }
        // Locks died with their holder.
        drop(cache.lock(&keys("n0").0));
    }
    assert!(hits > 0, "the children wrote something");
    cache.clear().unwrap();
    let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(left.iter().all(|f| f.to_string_lossy().ends_with(".lock")), "{left:?}");
}
