use super::*;
use hardware::{Step, StepKind};
use hardware_sim::SimMachine;
use hardware_sim::drive::{AtaProfile, NvmeProfile, ScsiProfile, SelfTestEnd, SimClock, SimDrive};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Time that passes whenever somebody waits for it; the step is stopped after so many seconds.
#[derive(Debug)]
struct Hurry {
    clock: SimClock,
    stop_after: AtomicU64,
    heard: Mutex<Vec<Progress>>,
}

impl StepControl for Hurry {
    fn report(&self, progress: Progress) {
        self.heard.lock().unwrap().push(progress);
    }
    fn is_cancelled(&self) -> bool {
        self.clock.now().as_secs() >= self.stop_after.load(Ordering::Relaxed)
    }
    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.clock.advance(PACE);
            tokio::time::advance(PACE).await;
        })
    }
}

fn drives(clock: &SimClock) -> [SimDrive; 3] {
    [
        SimDrive::nvme(NvmeProfile::full(), "/dev/nvme0n1", clock),
        SimDrive::ata(AtaProfile::full(), "/dev/sda", clock),
        SimDrive::scsi(ScsiProfile::full(), "/dev/sdb", clock),
    ]
}

struct Bench {
    control: Arc<Hurry>,
    shared: Arc<Shared>,
}

impl Bench {
    fn new(clock: &SimClock, drives: &[SimDrive]) -> Self {
        let machine = SimMachine::new();
        drives.iter().for_each(|drive| machine.add_drive(drive));
        let (agent, _) = crate::Agent::builder(Arc::new(machine), crate::Settings::default()).build().unwrap();
        let control = Hurry { clock: clock.clone(), stop_after: u64::MAX.into(), heard: Mutex::default() };
        Self { control: Arc::new(control), shared: Arc::clone(&agent.shared) }
    }

    async fn test(&self, args: Value) -> Result<Value, StepError> {
        let mut step = Step::new("deploy", "test_disks", 0);
        step.args = args.as_object().unwrap().clone();
        let control = Arc::clone(&self.control) as Arc<dyn StepControl>;
        let (kind, node, ports) = (StepKind::Service, Arc::default(), Arc::default());
        test(&self.shared, StepCall { kind, step, node, ports, control }).await
    }

    async fn refused(&self, args: Value) -> String {
        self.test(args).await.unwrap_err().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn disks_test_themselves_and_their_logs_tell_the_result() {
    let clock = SimClock::default();
    let bench = Bench::new(&clock, &drives(&clock));
    insta::assert_json_snapshot!(bench.test(json!({})).await.unwrap());
    // The same hour, the same result: a new test all the same.
    assert_eq!(bench.test(json!({})).await.unwrap()["verdict"], "ok");
    let heard: Vec<String> =
        bench.control.heard.lock().unwrap().iter().map(|progress| progress.stage.clone()).collect();
    insta::assert_snapshot!(heard[1..24].iter().step_by(11).map(String::as_str).collect::<Vec<_>>().join("\n"));
    let report = bench.test(json!({"extended": true, "disks": ["/dev/sda"]})).await.unwrap();
    assert_eq!(report["disks"][0]["self_test"]["extended"], true);
    assert_eq!(report["disks"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_its_test_is_named_with_the_place() {
    for number in 0..3 {
        let clock = SimClock::default();
        let drives = drives(&clock);
        drives[number].set_self_tests(SelfTestEnd::Fails);
        let bench = Bench::new(&clock, &drives);
        let name = drives[number].disk().name;
        let error = bench.refused(json!({})).await;
        assert!(error.contains(&format!("{name} (serial SIM")) && error.contains("failed at LBA 4711"), "{error}");
        assert_eq!(bench.test(json!({"fail": false})).await.unwrap()["verdict"], "failing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_test_that_never_ends_or_never_was_is_no_success() {
    for number in 0..3 {
        let clock = SimClock::default();
        let drives = drives(&clock);
        let bench = Bench::new(&clock, &drives);
        drives[number].set_self_tests(SelfTestEnd::Hangs);
        assert!(bench.refused(json!({})).await.contains("has not ended after 14 minutes"));
        drives[number].set_self_tests(SelfTestEnd::Ignored);
        let report = bench.test(json!({})).await.unwrap();
        assert_eq!((&report["verdict"], &report["disks"][number]["verdict"]), (&json!("unknown"), &json!("unknown")));
        let error = bench.refused(json!({"disks": [drives[number].disk().name]})).await;
        assert!(error.contains("its log has no test since"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_stopped_ends_the_tests() {
    let clock = SimClock::default();
    let drives = drives(&clock);
    let bench = Bench::new(&clock, &drives);
    bench.control.stop_after.store(30, Ordering::Relaxed);
    assert!(matches!(bench.test(json!({})).await, Err(StepError::Cancelled)));
    bench.control.stop_after.store(u64::MAX, Ordering::Relaxed);
    // None runs any more, so that all of them take the next one.
    assert_eq!(bench.test(json!({})).await.unwrap()["verdict"], "ok");
}

#[tokio::test(start_paused = true)]
async fn disks_that_cannot_test_themselves_are_told_and_those_that_are_not_there_refused() {
    let clock = SimClock::default();
    let unable = [
        SimDrive::nvme(NvmeProfile::qemu(), "/dev/nvme0n1", &clock),
        SimDrive::scsi(ScsiProfile::qemu(), "/dev/sdb", &clock),
        SimDrive::virtio("/dev/vda", &clock),
    ];
    insta::assert_snapshot!(Bench::new(&clock, &unable).refused(json!({})).await);
    let [able, ..] = drives(&clock);
    let bench = Bench::new(&clock, &[able, unable[2].clone()]);
    let report = bench.test(json!({})).await.unwrap();
    assert_eq!((&report["verdict"], &report["disks"][0]["verdict"]), (&json!("unknown"), &json!("ok")));
    let error = bench.refused(json!({"disks": ["/dev/sdz"]})).await;
    assert_eq!(error, "disks names /dev/sdz; the disks of this machine are /dev/nvme0n1, /dev/vda");
    assert!(bench.refused(json!({"disks": "/dev/vda"})).await.contains("argument disks"));
    assert!(bench.refused(json!({"disk": "/dev/vda"})).await.contains("it takes disks, extended, fail"));
}
