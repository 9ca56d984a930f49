use sandbox::{Builder, INSTANCE, PROJECT, Sandbox, ZONE};

use crate::client::{Answer, Ask, token};

#[tokio::test]
async fn the_vm_can_be_deleted_and_no_other_one() {
    let sandbox = start(Sandbox::builder()).await;
    assert_eq!(delete(&sandbox, "another").await.status(), 404);
    assert_eq!(sandbox.deleted_instances(), [""; 0]);
    assert_eq!(delete(&sandbox, INSTANCE).await.status(), 200);
    assert_eq!(sandbox.deleted_instances(), [INSTANCE]);
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_deletion_needs_a_token_and_the_permission() {
    let sandbox = start(Sandbox::builder().without_permission("compute.instances.delete")).await;
    assert_eq!(Ask::google("DELETE", &address(INSTANCE)).answer(&sandbox).await.status(), 401);
    let refused = delete(&sandbox, INSTANCE).await;
    assert_eq!((refused.status(), &refused.json()["error"]["status"]), (403, &"PERMISSION_DENIED".into()));
    assert!(refused.text().contains("compute.instances.delete"), "{refused:?}");
    assert_eq!(sandbox.deleted_instances(), [""; 0]);
}

#[tokio::test]
async fn what_is_written_down_goes_first_and_what_it_cannot_do_is_noted() {
    let sandbox = start(Sandbox::builder().compute_answers([503])).await;
    let statuses = [delete(&sandbox, INSTANCE).await.status(), delete(&sandbox, INSTANCE).await.status()];
    assert_eq!(statuses, [503, 200]);
    let disk = address("disk-1").replace("/instances/", "/disks/");
    for (method, url, status) in [("PUT", address(INSTANCE), 405), ("GET", disk, 404)] {
        let asked = Ask::google(method, &url).bearer(&token(&sandbox).await).answer(&sandbox).await;
        assert_eq!(asked.status(), status, "{method} {url}");
    }
    assert_eq!(sandbox.complaints().len(), 2);
}

fn address(instance: &str) -> String {
    format!("https://compute.googleapis.com/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances/{instance}")
}

async fn delete(sandbox: &Sandbox, instance: &str) -> Answer {
    Ask::google("DELETE", &address(instance)).bearer(&token(sandbox).await).answer(sandbox).await
}

async fn start(builder: Builder) -> Sandbox {
    builder.start().await.expect("a sandbox")
}
