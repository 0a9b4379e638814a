# tpu_pod.py create
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources create byol --project=my-project --zone=europe-west4-a --quiet --node-id=byol --accelerator-type=v3-512 --runtime-version=tpu-ubuntu2204-base --labels=byol-jax-launch=byol --reserved
# tpu_pod.py preflight
git status --porcelain
git rev-parse --verify '0123456789abcdef0123456789abcdef01234567^{commit}'
mkdir -p runs/launch
git archive --format=tar.gz --output=runs/launch/0123456789abcdef0123456789abcdef01234567.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources scp runs/launch/0123456789abcdef0123456789abcdef01234567.tar.gz byol: --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=code=0123456789abcdef0123456789abcdef01234567; mkdir -p byol_jax && cd byol_jax && { test -d $code || { rm -rf $code.part && mkdir $code.part && tar -xzf ~/$code.tar.gz -C $code.part && mv -T $code.part $code; }; } && ln -sfn $code current && rm -f ~/$code.tar.gz'
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=bash byol_jax/current/launch/setup_vm.sh'
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=byol_jax/current/launch/on_host.sh preflight gs://bucket/run'
# tpu_pod.py run
git status --porcelain
git rev-parse --verify '0123456789abcdef0123456789abcdef01234567^{commit}'
mkdir -p runs/launch
git archive --format=tar.gz --output=runs/launch/0123456789abcdef0123456789abcdef01234567.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources create byol --project=my-project --zone=europe-west4-a --quiet --node-id=byol --accelerator-type=v3-512 --runtime-version=tpu-ubuntu2204-base --labels=byol-jax-launch=byol --reserved
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=byol_jax/current/launch/on_host.sh status byol'
gcloud compute tpus queued-resources scp runs/launch/0123456789abcdef0123456789abcdef01234567.tar.gz byol: --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=code=0123456789abcdef0123456789abcdef01234567; mkdir -p byol_jax && cd byol_jax && { test -d $code || { rm -rf $code.part && mkdir $code.part && tar -xzf ~/$code.tar.gz -C $code.part && mv -T $code.part $code; }; } && ln -sfn $code current && rm -f ~/$code.tar.gz'
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=bash byol_jax/current/launch/setup_vm.sh'
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=byol_jax/current/launch/on_host.sh preflight gs://bucket/run'
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=byol_jax/current/launch/on_host.sh start byol 1 120 -m byol_jax pretrain --distributed=gce --config=pretrain:1000 --workdir=gs://bucket/run '"'"'--config.data_dir=/mnt/it'"'"'"'"'"'"'"'"'s "my" $DATA; é'"'"''
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=byol_jax/current/launch/on_host.sh status byol'
# tpu_pod.py status
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=byol_jax/current/launch/on_host.sh status byol'
# tpu_pod.py logs
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=0 --batch-size=all '--command=byol_jax/current/launch/on_host.sh log byol 50'
# tpu_pod.py stop
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources ssh byol --project=my-project --zone=europe-west4-a --quiet --worker=all --batch-size=all '--command=byol_jax/current/launch/on_host.sh stop byol 120'
# tpu_pod.py delete
gcloud compute tpus queued-resources describe byol --project=my-project --zone=europe-west4-a --quiet --format=json
gcloud compute tpus queued-resources delete byol --project=my-project --zone=europe-west4-a --quiet --force
