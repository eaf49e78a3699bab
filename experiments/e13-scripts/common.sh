# Sourced by the scripts of this folder: verl on GSM8K with the overrides that all runs share.
#
#   train RUN_DIR SEED OVERRIDE…
# $VERL_PYTHON is the python of the environment that verl is installed in; $MODEL and $DATA are folders.
train() {
  local run_dir=$1 seed=$2
  shift 2
  exec "${VERL_PYTHON:-python3}" -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    data.train_files="${DATA:-data}/gsm8k/train.parquet" \
    data.val_files="${DATA:-data}/gsm8k/test.parquet" \
    data.train_batch_size=128 \
    data.seed="$seed" \
    actor_rollout_ref.model.path="${MODEL:-Qwen/Qwen2.5-1.5B-Instruct}" \
    actor_rollout_ref.model.lora_rank=32 \
    actor_rollout_ref.model.lora_alpha=16 \
    actor_rollout_ref.actor.optim.lr=1e-5 \
    actor_rollout_ref.actor.ppo_mini_batch_size=32 \
    actor_rollout_ref.actor.clip_ratio_low=0.2 \
    actor_rollout_ref.actor.clip_ratio_high=0.25 \
    actor_rollout_ref.rollout.n=8 \
    trainer.logger='["console"]' \
    trainer.val_before_train=True \
    trainer.test_freq=20 \
    trainer.default_local_dir="$run_dir/checkpoints" \
    "$@"
}
