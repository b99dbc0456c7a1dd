//! A conductor that is killed at any moment: the next one goes on where it was.

use super::sim::{Booted, Fuse, Site};
use lifecycle::provision::{State, Verb};

/// Kills the conductor at every moment of what `verb` does, and looks whether its successor ends well.
async fn killed_at_every_moment(verb: Verb, end: State, prepare: impl AsyncFn(&Site), check: impl Fn(&Site, &str)) {
    let site = Site::new().await;
    prepare(&site).await;
    let fuse = Fuse::whole();
    site.restart(fuse.clone()).await;
    site.verb(verb).await.unwrap();
    site.settle(end).await;
    check(&site, "without a kill");
    let moments = fuse.moments();
    assert!(moments > 20, "only {moments} moments");
    for moment in 1..=moments {
        let site = Site::new().await;
        prepare(&site).await;
        let fuse = Fuse::blowing_at(moment);
        site.restart(fuse.clone()).await;
        // The answer is lost with the conductor when it dies before it is given.
        let conductor = site.conductor();
        let ident = site.ident();
        tokio::spawn(async move {
            let arguments = driver::command::ProvisionArguments::default();
            conductor.command(&ident, driver::command::Command::Provision { verb, arguments }).await
        });
        let died = tokio::select! {
            () = fuse.blown() => true,
            // A run that was killed may be longer or shorter than the first one.
            () = tokio::time::sleep(std::time::Duration::from_secs(3000)) => false,
        };
        let when = format!("killed at moment {moment} of {moments}, {}", fuse.what.lock().unwrap());
        if died {
            site.restart(Fuse::whole()).await;
            if moment == 1 {
                // Nothing was saved, so nothing was accepted: the operator asks again.
                site.verb(verb).await.unwrap();
            }
        }
        println!("{when}");
        site.settle(end).await;
        check(&site, &when);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_survives_a_kill_at_any_moment() {
    killed_at_every_moment(Verb::Active, State::Active, Site::make_available, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.image_writes, 1, "{when}: the image is written once");
        assert_eq!(state.booted, [Booted::Ramdisk, Booted::Disk], "{when}: nothing is booted twice");
        assert_eq!(state.steps_run, ["check_burn_in", "write_image", "tune", "install_bootloader"], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cleaning_survives_a_kill_at_any_moment() {
    let prepare = async |site: &Site| {
        site.verb(Verb::Manage).await.unwrap();
        site.settle(State::Manageable).await;
    };
    killed_at_every_moment(Verb::Provide, State::Available, prepare, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Ramdisk], "{when}");
        assert_eq!(state.steps_run, ["erase_devices_metadata", "erase_devices"], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_inspection_survives_a_kill_at_any_moment() {
    let prepare = async |site: &Site| {
        site.verb(Verb::Manage).await.unwrap();
        site.settle(State::Manageable).await;
        site.machine.forget_history();
    };
    killed_at_every_moment(Verb::Inspect, State::Manageable, prepare, |site, when| {
        assert_eq!(site.machine.lock().booted, [Booted::Ramdisk], "{when}");
    })
    .await;
}
