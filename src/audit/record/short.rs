//! A record as far as it must be kept where it is too large: who and where.
#![forbid(unsafe_code)]

use super::Record;

impl Record {
    /// Cuts what it says of who and where, so that it is at most some tens of kilobytes.
    pub(crate) fn shorten(&mut self) {
        const MOST: usize = 64;
        let record = self;
        let user = &mut record.user;
        let identity = &mut record.grid.identity;
        identity.others.truncate(16);
        identity.remarks.truncate(16);
        identity.remarks.iter_mut().for_each(|remark| cut(remark, 256));
        record.grid.pilot.names.truncate(16);
        for other in identity.others.iter_mut().chain(&mut record.grid.pilot.names) {
            other.groups.truncate(MOST);
            other.groups.iter_mut().for_each(|group| cut(group, 256));
            let texts = [&mut other.subject, &mut other.issuer, &mut other.source, &mut other.jti];
            texts.into_iter().flatten().for_each(|text| cut(text, 1024));
        }
        let lists = [
            &mut user.roles,
            &mut record.related.user,
            &mut record.container.image.hash.all,
            &mut identity.groups,
            &mut record.grid.pilot.batch_job_id,
        ];
        for list in lists {
            list.truncate(MOST);
            for text in list.iter_mut() {
                cut(text, 256);
            }
        }
        let image = &mut record.grid.image;
        image.remarks.truncate(MOST);
        image.remarks.iter_mut().for_each(|remark| cut(remark, 256));
        image.labels = std::mem::take(&mut image.labels)
            .into_iter()
            .filter(|(name, _)| name.len() <= 256)
            .take(MOST)
            .collect();
        image.labels.values_mut().for_each(|value| cut(value, 1024));
        record.related.ip.truncate(MOST);
        record.grid.site.public_ip.truncate(MOST);
        let texts = [
            &mut user.id,
            &mut user.domain,
            &mut user.name,
            &mut record.process.executable,
            &mut record.process.entity_id,
            &mut record.process.real_user.id,
            &mut record.process.real_group.id,
            &mut record.process.user.id,
            &mut record.container.image.name,
            &mut image.created_by,
            &mut image.os,
            &mut image.end_of_life,
            &mut record.grid.vo,
            &mut record.grid.job.id,
            &mut record.grid.job.task,
            &mut record.grid.pilot.id,
            &mut record.grid.pilot.subject,
            &mut record.grid.site.name,
            &mut record.grid.parent_launch,
            &mut record.grid.policy.rule,
            &mut record.grid.policy.bans_version,
            &mut record.grid.policy.config_hash,
            &mut identity.issuer,
            &mut identity.subject,
            &mut identity.jti,
            &mut identity.person,
        ];
        texts.into_iter().flatten().for_each(|text| cut(text, 1024));
    }
}

fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}
